"""The verdict of a published script on one response."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from coat_core.evaluation.benchmarks.items import BenchmarkItem, Given

Code = Literal["matched", "wrong", "unparsed", "empty", "missing", "script_error", "needs_model"]


@dataclass(frozen=True)
class Verdict:
    """What a script gives one response.

    Attributes:
        value: the item's score; None if the script gives none. None is not 0: the item is not in the script's denominator.
        code: why.
        note: the reason in words, where the code does not say it.
        stops: whether the whole script ends here without a result.
        details: further numbers of the item, e.g. edits and reference words.
    """

    value: float | None
    code: Code
    note: str = ""
    stops: bool = False
    details: dict[str, Any] = field(default_factory=dict)


Rule = Callable[[BenchmarkItem, Given], Verdict]


def judged(right: bool) -> Verdict:
    """Return the verdict of an item that is counted: 1 or 0."""
    return Verdict(1.0, "matched") if right else Verdict(0.0, "wrong")


def left_out(code: Code, note: str = "") -> Verdict:
    """Return the verdict of an item that the script does not count."""
    return Verdict(None, code, note)


def stopped(note: str) -> Verdict:
    """Return the verdict of an item at which the script ends without a result."""
    return Verdict(None, "script_error", note, stops=True)
