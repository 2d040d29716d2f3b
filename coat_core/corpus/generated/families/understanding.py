"""Understanding: class, number and order of sounds."""

from __future__ import annotations

from numpy.random import Generator

from coat_core.corpus.generated.families.recipe import YES_NO, Performers, Recipe, draw_without
from coat_core.corpus.generated.mixing import Waveform, sequence
from coat_core.corpus.generated.sounds import SOUNDS, make_sound
from coat_core.corpus.generated.speech import Synthesiser
from coat_core.corpus.questions import Facts, Task, fact

_NAMES = tuple(SOUNDS)
_COUNTS = ("one", "two", "three", "four")


def _count_facts(facts: Facts, rng: Generator) -> None:
    facts["times"] = _COUNTS.index(facts["count"]) + 1


def _repeat(facts: Facts, performers: Performers, rng: Generator, synthesiser: Synthesiser) -> Waveform:
    sounds = [make_sound(facts["sound"], performers.source, rng) for _ in range(facts["times"])]
    return sequence(sounds, list(rng.uniform(0.2, 0.4, size=len(sounds) - 1)))


def _pair_facts(facts: Facts, rng: Generator) -> None:
    facts["last"] = draw_without(_NAMES, [facts["first"]], rng)
    present = (facts["first"], facts["last"])
    facts["target"] = present[int(rng.integers(2))] if facts["heard"] == "yes" else draw_without(_NAMES, present, rng)


def _pair(facts: Facts, performers: Performers, rng: Generator, synthesiser: Synthesiser) -> Waveform:
    sounds = [make_sound(facts[place], performers.source, rng) for place in ("first", "last")]
    return sequence(sounds, [float(rng.uniform(0.15, 0.4))])


def _both(facts: Facts) -> tuple[str, str]:
    return facts["first"], facts["last"]


_SOUND = Task("sound", ("Which sound is this?", "What do you hear?"), fact("sound"), _NAMES)
_COUNT = Task("count", ("How many times does the sound occur?", "How often is the sound heard?"), fact("count"), _COUNTS)
_NUMBER = Task("number", ("Count the sounds. Answer with a number.", "How many sounds are there? Answer with a number."), fact("times"))
_FIRST = Task("first", ("Which sound comes first?", "Which sound is heard first?"), fact("first"), _both)
_LAST = Task("last", ("Which sound comes last?", "Which sound is at the end?"), fact("last"), _NAMES)
_PRESENT = Task("heard", ("Is there a {target}?", "Do you hear a {target}?"), fact("heard"), YES_NO)

RECIPES = (
    Recipe("repeated", "source", {"sound": _NAMES, "count": _COUNTS}, (_SOUND, _COUNT, _NUMBER), _count_facts, _repeat),
    Recipe("pair", "source", {"first": _NAMES, "heard": YES_NO}, (_FIRST, _LAST, _PRESENT), _pair_facts, _pair),
)
