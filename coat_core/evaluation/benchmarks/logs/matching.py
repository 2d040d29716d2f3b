"""Which item of a benchmark a row of a log is about: by id, by clip, by question and answer, or by the reference answer alone.

A row is matched only if exactly one item fits. Nothing is dropped in silence: rows without an item, rows that fit several, repeated
items and items without a row are listed.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from coat_core.corpus.normal_form import normalise_option
from coat_core.evaluation.benchmarks.items import MISSING, BenchmarkItem, Given
from coat_core.evaluation.benchmarks.logs.rows import LogRow

WAYS = ("id", "clip", "question", "reference answer")


@dataclass
class Matched:
    """Rows and items that belong together, and what does not.

    Attributes:
        rows: item id → its row.
        ways: how many rows were matched in which way.
        unmatched: rows that fit no item.
        ambiguous: rows that fit several items.
        repeated: items with several rows; the first counts.
        conflicting: those of them whose rows have different responses.
        other_text: items whose row has another question or reference answer: another version of the benchmark.
    """

    rows: dict[str, LogRow] = field(default_factory=dict)
    ways: Counter[str] = field(default_factory=Counter)
    unmatched: list[str] = field(default_factory=list)
    ambiguous: list[str] = field(default_factory=list)
    repeated: list[str] = field(default_factory=list)
    conflicting: list[str] = field(default_factory=list)
    other_text: list[str] = field(default_factory=list)

    def given(self) -> dict[str, Given]:
        """Return item id → response, for items with one."""
        return {name: row.response for name, row in self.rows.items() if row.response is not MISSING}

    def missing(self, items: Iterable[BenchmarkItem]) -> list[str]:
        """Return the items without a row, and those whose row says that there is no response."""
        return [item.id for item in items if item.id not in self.rows or self.rows[item.id].response is MISSING]


class _Index:
    """Items by what a row may have of them."""

    def __init__(self, items: Sequence[BenchmarkItem]) -> None:
        self.items = items
        self.by_id = {item.id: item for item in items}
        self.by_clip: Mapping[str, list[BenchmarkItem]] = defaultdict(list)
        self.by_answer: Mapping[str, list[BenchmarkItem]] = defaultdict(list)
        for item in items:
            for clip in {Path(item.audio).stem, *item.aliases} - {""}:
                self.by_clip[clip].append(item)
            if item.answer:
                self.by_answer[normalise_option(item.answer)].append(item)
        self.distinct = len({_text(item) for item in items}) > 1


def match_rows(rows: Sequence[LogRow], items: Sequence[BenchmarkItem]) -> Matched:
    """Return which item each row is about."""
    index, result = _Index(items), Matched()
    for row in rows:
        way, found = _find(row, index)
        if len(found) != 1:
            (result.ambiguous if found else result.unmatched).append(row.name)
            continue
        (item,) = found
        if item.id in result.rows:
            result.repeated.append(item.id)
            if result.rows[item.id].response != row.response:
                result.conflicting.append(item.id)
            continue
        result.rows[item.id] = row
        result.ways[way] += 1
        # Sets of labels have no question of their own, and every harness asks in its words.
        other_question = way in ("id", "clip") and index.distinct and row.question.strip() and not _asks(row, item)
        if other_question or _has_other_answer(row, item):
            result.other_text.append(item.id)
    return result


def _find(row: LogRow, index: _Index) -> tuple[str, list[BenchmarkItem]]:
    if row.id and row.id in index.by_id:
        return "id", [index.by_id[row.id]]
    if row.clip and (found := index.by_clip.get(row.clip)):
        # Several questions about one clip differ in their text.
        return "clip", found if len(found) == 1 else [item for item in found if _asks(row, item)]
    answer = normalise_option(row.answer)
    if row.question.strip() and index.distinct:
        among = index.by_answer.get(answer, index.items) if answer else index.items
        if found := [item for item in among if _asks(row, item)]:
            return "question", found
    # Many questions with options have the same answer; a transcript or an open answer tells its item.
    return "reference answer", [item for item in index.by_answer.get(answer, []) if item.choices is None] if answer else []


def _text(item: BenchmarkItem) -> tuple[str, ...]:
    return item.question, *item.options


def _asks(row: LogRow, item: BenchmarkItem) -> bool:
    """Return whether the row's prompt contains the item's question and all its options."""
    prompt = _squeezed(row.question)
    return all(_squeezed(text) in prompt for text in _text(item))


def _has_other_answer(row: LogRow, item: BenchmarkItem) -> bool:
    """Return whether a row has another reference answer than its item; a letter stands for an option."""
    answer = normalise_option(row.answer)
    return len(answer) > 1 and item.answer is not None and answer != normalise_option(item.answer)


def _squeezed(text: str) -> str:
    return " ".join(text.split()).lower()
