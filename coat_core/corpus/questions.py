"""Tasks that make a question, its choices and its answer from the facts of a clip; seeded generators and balanced draws."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.random import Generator

Facts = dict[str, Any]
"""Labels and parameters of a clip by name. A recipe or a scene sets them; its tasks read them."""


@dataclass(frozen=True)
class Question:
    """One question about one clip."""

    task: str
    question: str
    choices: tuple[str, ...] | None
    answer: str


@dataclass(frozen=True)
class Task:
    """A question template.

    Args:
        key: name of the task.
        wordings: paraphrases of the question with `{fact}` fields.
        answer: returns the answer for the facts of a clip.
        options: possible answers, or a function that returns them for the facts of a clip. None makes an open question.
        shown: largest number of choices. The answer is one of them; the other choices and their order are random.
    """

    key: str
    wordings: tuple[str, ...]
    answer: Callable[[Facts], str]
    options: Sequence[str] | Callable[[Facts], Sequence[str]] | None = None
    shown: int = 4

    def make_question(self, facts: Facts, rng: Generator) -> Question:
        """Return the question for a clip with these facts."""
        question = self.wordings[int(rng.integers(len(self.wordings)))].format_map(facts)
        answer = self.answer(facts)
        if self.options is None:
            return Question(self.key, question, None, answer)
        options = self.options(facts) if callable(self.options) else self.options
        # Wrong choices are drawn uniformly, so the set of choices contains no information about the answer.
        others = [option for option in options if option != answer]
        assert len(others) == len(options) - 1, f"{self.key}: {answer!r} is not exactly once among {options}"
        picked = [answer, *(others[i] for i in rng.permutation(len(others))[: self.shown - 1])]
        return Question(self.key, question, tuple(picked[i] for i in rng.permutation(len(picked))), answer)


def fact(name: str) -> Callable[[Facts], str]:
    """Return a function that reads one fact."""
    return lambda facts: str(facts[name])


def seeded_generator(*parts: object) -> Generator:
    """Return a random generator whose seed depends only on `parts`. Clips can therefore be made in any order."""
    digest = hashlib.sha256("\0".join(map(str, parts)).encode()).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest[:16], "little")))


def balanced_draw(options: Sequence[Any], turn: int, *parts: object) -> Any:
    """Return element `turn` of an endless random sequence; each block of `len(options)` elements contains every option once."""
    block, place = divmod(turn, len(options))
    return options[int(seeded_generator(*parts, block).permutation(len(options))[place])]
