"""The transcripts of `coat ask`: items are drawn by seed, and each answer stands beside its question."""

from __future__ import annotations

from typing import Any

from benchmarks.transcripts import draw, table
from coat_core.corpus.examples import FAMILIES, Example
from tests.testing.evaluations import make_example


def _examples(split: str) -> list[Example]:
    return [
        make_example(2 * clip + question, family, split, sha256=f"{family}{clip}")
        for family in FAMILIES for clip in range(5) for question in range(2)
    ]  # fmt: skip


def test_items_are_drawn_by_seed_from_different_clips_of_the_test_split() -> None:
    examples = [*_examples("train"), *_examples("test")]
    drawn = draw(examples, 3, 0)
    assert [example.family for example in drawn] == [family for family in FAMILIES for _ in range(3)]
    assert {example.split for example in drawn} == {"test"}
    assert len({example.sha256 for example in drawn}) == len(drawn)
    assert draw(examples, 3, 0) == drawn
    assert draw(list(reversed(_examples("test"))), 3, 1) != drawn


def test_the_table_shows_every_answer_and_marks_the_right_ones() -> None:
    answers = {"models/a-sft-1": {"text": "rain", "score": 1.0}, "models/a-coat-1": {"text": " ", "score": None}}
    row: dict[str, Any] = {"family": "music", "question": "What?", "choices": None, "answer": "rain", "answers": answers}
    lines = table([row]).splitlines()
    assert lines[0] == "| family | question | choices | right | a-sft-1 | a-coat-1 |"
    assert lines[1].count(":--") == 6
    assert lines[2] == "| music | What? | open | rain | rain ✓ | (empty) |"
