"""The folder of question files and golden verdicts of public benchmarks, outside the repository."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from coat_core.evaluation.benchmarks.items import MISSING, BenchmarkItem, Given

BENCHMARKS = Path(os.environ.get("COAT_BENCHMARKS", Path(__file__).parents[3] / "shared" / "benchmarks"))
GOLDEN = BENCHMARKS / "golden"
needs_benchmarks = pytest.mark.skipif(
    not (GOLDEN / "README.md").is_file(), reason=f"no golden verdicts in {BENCHMARKS}; set COAT_BENCHMARKS"
)


def golden(name: str) -> list[dict[str, Any]]:
    """Return the rows of a golden file, each with its place as `line`."""
    lines = (GOLDEN / f"{name}.jsonl").read_text().splitlines()
    return [{"line": number, **json.loads(line)} for number, line in enumerate(lines, 1)]


def documented_counts() -> dict[str, tuple[int, int]]:
    """Return golden file → rows and reproduced rows, from the table in docs/benchmarks.md."""
    text = (Path(__file__).parents[2] / "docs/benchmarks.md").read_text()
    found = re.findall(r"^\| `(\w+)\.jsonl` \| (\d+) \| (\d+) \|", text, re.MULTILINE)
    return {name: (int(rows), int(reproduced)) for name, rows, reproduced in found}


def passes(check: Callable[..., None], *arguments: Any) -> bool:
    """Return whether a check raises no `AssertionError`."""
    try:
        check(*arguments)
    except AssertionError:
        return False
    return True


def golden_item(row: dict[str, Any]) -> BenchmarkItem:
    """Return the item of a golden row."""
    item = row["item"]
    choices = None if item.get("choices") is None else tuple(item["choices"])
    answer = item.get("answer")
    groups = {"task": f"{item['task_name']}_{item['dataset_name']}"} if "task_name" in item else {}
    details = {"task_identifier": item["question"], "kwargs": answer} if isinstance(answer, dict) else {}
    return BenchmarkItem(
        str(item.get("id", row["line"])), item.get("question", ""), choices, None if details else answer, "", groups, details
    )


def golden_given(row: dict[str, Any]) -> Given:
    """Return the response of a golden row; a note says where null stands for an absent key."""
    return MISSING if row["prediction"] is None and " absent" in row["note"] else row["prediction"]
