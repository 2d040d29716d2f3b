"""What a family of generated clips is made of: recipes, and the cast that a clip is performed by."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from numpy.random import Generator

from coat_core.corpus.generated.scenes import Waveform
from coat_core.corpus.generated.sounds import Source
from coat_core.corpus.generated.speech import Synthesiser, Voice
from coat_core.corpus.questions import Facts, Task

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "left", "right", "stop", "go", "yes", "no")
"""Everything that is ever said."""
YES_NO = ("yes", "no")


@dataclass(frozen=True)
class Cast:
    """Who or what performs a clip; no member of it is ever heard in another split."""

    group: str
    voice: Voice
    other_voice: Voice
    """Another speaker of the same split, with a voice of the other register."""
    source: Source


@dataclass(frozen=True)
class Recipe:
    """One kind of clip and everything that can be asked about it.

    Args:
        key: its name within the family.
        cast: whether a clip's group is its speaker or its source.
        factors: what is varied on purpose; each option comes equally often, independently of the other factors.
        tasks: the questions.
        complete: draws the remaining facts of a clip.
        render: makes the content of a clip `[N]` from its facts.
        level_db: range of the level change of the whole clip.
        snr_db: range of the content's level over the background.
    """

    key: str
    cast: Literal["voice", "source"]
    factors: Mapping[str, Sequence[Any]]
    tasks: tuple[Task, ...]
    complete: Callable[[Facts, Generator], None]
    render: Callable[[Facts, Cast, Generator, Synthesiser], Waveform]
    level_db: tuple[float, float] = (-8.0, 4.0)
    snr_db: tuple[float, float] = (18.0, 35.0)


def draw_without(options: Sequence[str], taken: Sequence[str], rng: Generator) -> str:
    """Draw an option that is not taken."""
    free = [option for option in options if option not in taken]
    return free[int(rng.integers(len(free)))]
