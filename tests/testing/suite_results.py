"""Results of a public benchmark in the layout of the stages, from invented items and responses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from coat_core.evaluation.benchmarks.catalogue import find_suite
from coat_core.evaluation.benchmarks.data import DataVersion
from coat_core.evaluation.benchmarks.items import BenchmarkItem
from coat_core.evaluation.benchmarks.recorded import result_path
from coat_core.evaluation.benchmarks.results import write_result
from coat_core.evaluation.benchmarks.suite import LoadedSuite
from coat_core.evaluation.statistics import Bootstrap
from coat_core.storage import write_json, write_jsonl
from tests.testing.judges import Told

OPTIONS = ("dog", "rain", "horn", "bell")
GROUPS = {"task": "sound", "difficulty": "easy", "sub-category": "made", "answer position": "1"}


def write_suite_result(workspace: Path, backbone: str, trial: str, right: int, of: int = 40, suite: str = "mmau", md5: str = "a") -> Path:
    """Write the result of a trial with so many right responses, one of which only we read as right; return its folder."""
    found = find_suite(suite)
    items = tuple(BenchmarkItem(f"i{n:03d}", f"Which sound is {n}?", OPTIONS, OPTIONS[n % 4], groups=GROUPS) for n in range(of))
    loaded = LoadedSuite(found, "made", items, found.rule_of(workspace), DataVersion(md5, None))
    responses = workspace / "responses/suites" / f"{backbone}-{trial}-{suite}"
    rows: list[dict[str, Any]] = [{"id": item.id, "response": item.answer if n < right else "a cat"} for n, item in enumerate(items)]
    rows[0] |= {"response": "A", "cut_s": 30.0, "finished": False}  # our reading knows letters
    write_jsonl(responses / "responses.jsonl", rows)
    write_json(responses / "record.json", {"suite": suite, "decoding": {"method": "greedy", "batch_size": 4}})
    target = result_path(workspace, backbone, trial, suite).parent
    write_result(loaded, responses, target, Bootstrap(200))
    return target


def write_judged_result(workspace: Path, backbone: str, trial: str, texts: tuple[str, ...]) -> Path:
    """Write the result of AIR-Bench Chat from the texts of a judge: two an item, the response in the second place, then in the first."""
    suite = find_suite("air_bench_chat")
    count = (len(texts) + 1) // 2
    items = tuple(BenchmarkItem(str(n), f"What is {n}?", None, "a car", groups={"task": "sound"}) for n in range(count))
    loaded = LoadedSuite(suite, "made", items, suite.rule_of(workspace), DataVersion("a", None))
    responses = workspace / "responses/suites" / f"{backbone}-{trial}-{suite.name}"
    write_jsonl(responses / "responses.jsonl", [{"id": item.id, "response": f"a bus {item.id}"} for item in items])
    target = result_path(workspace, backbone, trial, suite.name).parent
    write_result(loaded, responses, target, Bootstrap(200), Told(*texts))
    return target
