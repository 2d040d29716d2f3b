"""The result of a benchmark as a file: both readings, every item, and how the responses were made."""

from __future__ import annotations

from pathlib import Path

from coat_core.evaluation.benchmarks.judges import CachedJudge, Judge, with_judge
from coat_core.evaluation.benchmarks.recorded import RESULT
from coat_core.evaluation.benchmarks.scoring import DEFAULT, BenchmarkResult, read_given, score_benchmark, to_json
from coat_core.evaluation.benchmarks.suite import LoadedSuite
from coat_core.evaluation.statistics import Bootstrap
from coat_core.storage import new_folder, read_json, read_jsonl, write_json

JUDGEMENTS = "judgements"
"""Folder, beside a result, of the judge's texts by content."""
_RESPONSES, _RECORD = "responses.jsonl", "record.json"


def write_result(
    loaded: LoadedSuite, responses: Path, target: Path, bootstrap: Bootstrap = DEFAULT, judge: Judge | None = None
) -> BenchmarkResult:
    """Score a folder of responses and write its result to a new folder.

    Args:
        loaded: items and rule.
        responses: folder with `responses.jsonl` and, if a model of ours answered, `record.json`.
        target: folder to write; an existing one is replaced.
        bootstrap: of the intervals.
        judge: judges open answers; its texts are kept with the result, so that they can be read again.

    Raises:
        EvaluationError: a row of the responses is invalid, or the benchmark has no judge.
    """
    with new_folder(target) as folder:
        chosen = loaded if judge is None else with_judge(loaded, CachedJudge(judge, folder / JUDGEMENTS))
        result = score_benchmark(chosen, read_given(responses / _RESPONSES), bootstrap)
        record = read_json(responses / _RECORD) if (responses / _RECORD).is_file() else {}
        record |= {"judge": judge.identity if judge is not None else None}
        write_json(folder / RESULT, {**to_json(result), "responses": response_counts(responses / _RESPONSES), "record": record})
    return result


def response_counts(path: Path) -> dict[str, int]:
    """Return how many rows of a file of responses were not asked, had their clip cut, or were cut off at the longest response."""
    rows = read_jsonl(path)
    return {
        "not_asked": sum("skipped" in row for row in rows),
        "clips_cut": sum("cut_s" in row for row in rows),
        "unfinished": sum(row.get("finished") is False for row in rows),
    }
