"""The items of a benchmark in a folder of ours, with the files of its rule: enough to score responses again without the published files."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from coat_core.evaluation.benchmarks.catalogue import find_suite
from coat_core.evaluation.benchmarks.data import DataVersion
from coat_core.evaluation.benchmarks.items import BenchmarkItem
from coat_core.evaluation.benchmarks.suite import LoadedSuite
from coat_core.storage import new_folder, read_json, read_jsonl, write_json, write_jsonl

ITEMS, FACTS = "items.jsonl", "suite.json"
_TUPLES = ("choices", "further_audio", "aliases")


def write_items(loaded: LoadedSuite, source: Path, target: Path, facts: Mapping[str, Any]) -> None:
    """Write items, facts and the files of the rule to a new folder.

    Args:
        loaded: the benchmark.
        source: folder with its published files.
        target: folder to write; an existing one is replaced.
        facts: further facts, e.g. where the files come from.
    """
    suite, layout = loaded.suite, loaded.suite.layout
    with new_folder(target) as folder:
        write_jsonl(folder / ITEMS, (asdict(item) for item in loaded.items))
        write_json(folder / FACTS, {
            "suite": suite.name, "split": loaded.split, "origin": layout.origin, "licence": suite.licence.name,
            "data": asdict(loaded.version), **facts,
        })  # fmt: skip
        for group in layout.rule_files:
            shutil.copyfile(next(source / name for name in group.split("|") if (source / name).is_file()), folder / group.split("|")[0])


def read_items(folder: Path) -> LoadedSuite:
    """Return the benchmark that `write_items` wrote.

    Raises:
        CoatError: a file is missing, or the benchmark is unknown.
    """
    facts = read_json(folder / FACTS)
    suite = find_suite(facts["suite"])
    items = tuple(_item(row) for row in read_jsonl(folder / ITEMS))
    return LoadedSuite(suite, facts["split"], items, suite.rule_of(folder), DataVersion(**facts["data"]))


def _item(row: Mapping[str, Any]) -> BenchmarkItem:
    fields: dict[str, Any] = {name: tuple(value) if name in _TUPLES and value is not None else value for name, value in row.items()}
    return BenchmarkItem(**fields)
