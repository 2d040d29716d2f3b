"""Tasks of the generated corpus: from the facts of a clip to a question, its choices and its answer."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.random import Generator

Facts = dict[str, Any]
"""What is true of a clip: filled by a recipe, read by its tasks."""


@dataclass(frozen=True)
class Asked:
    """One question about one clip."""

    task: str
    question: str
    choices: tuple[str, ...] | None
    answer: str


@dataclass(frozen=True)
class Task:
    """One question form.

    `wordings` are paraphrases with `{fact}` fields. `options` are the answers that may be shown, or a function that takes them
    from the facts; at most `shown` of them are, the right one among them, in an order drawn for the clip. None asks an open
    question.
    """

    key: str
    wordings: tuple[str, ...]
    answer: Callable[[Facts], str]
    options: Sequence[str] | Callable[[Facts], Sequence[str]] | None = None
    shown: int = 4

    def ask(self, facts: Facts, rng: Generator) -> Asked:
        """Word the question for a clip."""
        question = self.wordings[int(rng.integers(len(self.wordings)))].format_map(facts)
        answer = self.answer(facts)
        if self.options is None:
            return Asked(self.key, question, None, answer)
        options = self.options(facts) if callable(self.options) else self.options
        # Wrong choices are drawn evenly, so that the set shown says nothing of which one is right.
        others = [option for option in options if option != answer]
        assert len(others) == len(options) - 1, f"{self.key}: {answer!r} is not once among {options}"
        picked = [answer, *(others[i] for i in rng.permutation(len(others))[: self.shown - 1])]
        return Asked(self.key, question, tuple(picked[i] for i in rng.permutation(len(picked))), answer)


def fact(name: str) -> Callable[[Facts], str]:
    """Return the reader of one fact."""
    return lambda facts: str(facts[name])


def generator(*parts: object) -> Generator:
    """Return the random generator that belongs to these names alone, in whatever order clips are made."""
    digest = hashlib.sha256("\0".join(map(str, parts)).encode()).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest[:16], "little")))


def balanced(options: Sequence[Any], turn: int, *parts: object) -> Any:
    """Return the `turn`-th of an endless draw in which each run of `len(options)` turns holds every option once."""
    block, place = divmod(turn, len(options))
    return options[int(generator(*parts, block).permutation(len(options))[place])]
