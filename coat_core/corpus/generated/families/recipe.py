"""Recipes of generated clips and the performers of a clip."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from numpy.random import Generator

from coat_core.corpus.generated.mixing import Waveform
from coat_core.corpus.generated.sounds import Source
from coat_core.corpus.generated.speech import Synthesiser, Voice
from coat_core.corpus.questions import Facts, Task

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "left", "right", "stop", "go", "yes", "no")
"""The vocabulary of the spoken clips."""
YES_NO = ("yes", "no")


@dataclass(frozen=True)
class Performers:
    """The voices and the sound source of a clip. Each of them occurs in one split only."""

    group: str
    voice: Voice
    other_voice: Voice
    """Another voice of the same split; one of the two is a `high` voice."""
    source: Source


@dataclass(frozen=True)
class Recipe:
    """One kind of clip and its tasks.

    Args:
        key: name within the family.
        grouped_by: whether the group of a clip is its voice or its source.
        factors: balanced facts and their options. Each option occurs equally often, independently of the other factors.
        tasks: the tasks of such a clip.
        complete: draws the remaining facts of a clip.
        render: returns the content of a clip `[N]` from its facts.
        level_db: range of the level change of the whole clip, dB.
        snr_db: range of the signal-to-noise ratio, dB.
    """

    key: str
    grouped_by: Literal["voice", "source"]
    factors: Mapping[str, Sequence[Any]]
    tasks: tuple[Task, ...]
    complete: Callable[[Facts, Generator], None]
    render: Callable[[Facts, Performers, Generator, Synthesiser], Waveform]
    level_db: tuple[float, float] = (-8.0, 4.0)
    snr_db: tuple[float, float] = (18.0, 35.0)


def draw_without(options: Sequence[str], excluded: Sequence[str], rng: Generator) -> str:
    """Draw one of the options that are not in `excluded`."""
    free = [option for option in options if option not in excluded]
    return free[int(rng.integers(len(free)))]
