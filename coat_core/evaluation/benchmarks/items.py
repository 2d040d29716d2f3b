"""Items of a benchmark, and what a model answered to them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any


class Missing(Enum):
    """The response file has no row for an item. Some scripts leave such items out, and stop at a response that is null."""

    MISSING = "missing"


MISSING = Missing.MISSING
Given = str | None | Missing
"""A response: text, null, or no row at all."""


@dataclass(frozen=True)
class BenchmarkItem:
    """One question of a benchmark.

    Attributes:
        id: unique in its split.
        question: text of the question, as published.
        choices: options in published order; None stands for an option that the file leaves empty.
        answer: the published answer; None where it is kept secret.
        audio: path of the clip below the data folder.
        groups: fields by which scores are reported, e.g. task and difficulty.
        details: further fields that a rule reads.
        further_audio: the other clips of a question about several.
        aliases: other names of the item's clip in logs of harnesses, without suffix.
    """

    id: str
    question: str
    choices: tuple[str | None, ...] | None
    answer: str | None
    audio: str = ""
    groups: Mapping[str, str] = field(default_factory=dict)
    details: Mapping[str, Any] = field(default_factory=dict)
    further_audio: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()

    @property
    def options(self) -> tuple[str, ...]:
        """The options that are not empty; () for an open question."""
        return tuple(choice for choice in self.choices or () if choice is not None)


def answer_position(row: Mapping[str, Any]) -> str:
    """Return the place of the answer among the choices of a row, from 1, or "none".

    Answers are not spread evenly over the places (MMAU test-mini: 395, 271, 208 and 126), so a model that prefers a place gains or loses.
    """
    choices, answer = list(row["choices"]), row.get("answer")
    return str(choices.index(answer) + 1) if answer in choices else "none"
