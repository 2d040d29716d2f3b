"""Rows of a file of responses."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coat_core.errors import EvaluationError
from coat_core.evaluation.benchmarks.items import Given

SUFFIXES = (".jsonl", ".json", ".csv", ".tsv")
Row = Mapping[str, Any]


@dataclass(frozen=True)
class LogRow:
    """What a harness recorded of one question.

    Attributes:
        place: number of the row, from 1.
        id: id of the item in the published files; empty if the harness does not record it.
        clip: name of the clip without folder and suffix; empty if it is not recorded.
        question: the prompt or the question, with its options.
        answer: the reference answer.
        response: the model's text; `MISSING` where the harness says that it got none.
        score: the harness's score, 0 to 1; None if the row has none.
        filtered: whether the harness scored another text than the model's.
    """

    place: int
    id: str
    clip: str
    question: str
    answer: str
    response: Given
    score: float | None = None
    filtered: bool = False

    @property
    def name(self) -> str:
        """The row for a person: its id or clip, or its place."""
        return self.id or self.clip or f"row {self.place}"


def read_rows(path: Path) -> list[Row]:
    """Read the rows of a table: JSON Lines, a JSON list of objects, CSV or TSV.

    Raises:
        EvaluationError: the file is missing, of another kind, or damaged; the message names the line.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise EvaluationError(
            "responses of this kind of file cannot be read", field="responses", value=path.name, allowed=SUFFIXES,
            next_step="save the table as TSV or JSON; for VLMEvalKit set PRED_FORMAT=json, or convert its xlsx file",
        )  # fmt: skip
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise EvaluationError(f"the responses cannot be read: {error}", field="responses", value=str(path)) from error
    rows = _lines(path, text) if path.suffix.lower() == ".jsonl" else _table(path, text)
    if not rows or not all(isinstance(row, dict) for row in rows):
        raise EvaluationError(
            "the file has no rows" if not rows else "the file is no list of objects", field="responses", value=str(path),
            allowed="an object for each item",
        )  # fmt: skip
    return rows


def number(value: object) -> float | None:
    """Return a finite number that a file has as a number, a truth value or a text; None if it is none."""
    try:
        found = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None
    return found if abs(found) != float("inf") and found == found else None


def text_of(value: object) -> str:
    """Return a cell as text; an empty one (null, NaN of pandas) as an empty text."""
    return "" if value is None or value != value else str(value)


def clip_name(value: object) -> str:
    """Return the name of a clip, or of the first of a list, without folder and suffix."""
    first = value[0] if isinstance(value, list | tuple) and value else value
    return Path(text_of(first).replace("\\", "/")).stem if isinstance(first, str) else ""


def _lines(path: Path, text: str) -> list[Any]:
    rows = []
    for place, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                rows.append(json.loads(line))
            except ValueError as error:
                raise EvaluationError(f"line {place} is not JSON: {error}", field="responses", value=str(path)) from error
    return rows


def _table(path: Path, text: str) -> list[Any]:
    if path.suffix.lower() == ".json":
        try:
            value = json.loads(text)
        except ValueError as error:
            raise EvaluationError(f"the file is not JSON: {error}", field="responses", value=str(path)) from error
        return value if isinstance(value, list) else []
    csv.field_size_limit(1 << 30)
    return list(csv.DictReader(text.splitlines(keepends=True), delimiter="\t" if path.suffix.lower() == ".tsv" else ","))
