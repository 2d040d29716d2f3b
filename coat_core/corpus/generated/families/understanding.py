"""Understanding: which sound, how many times, in which order."""

from __future__ import annotations

from numpy.random import Generator

from coat_core.corpus.generated.families.recipe import YES_NO, Cast, Recipe, draw_without
from coat_core.corpus.generated.scenes import Waveform, sequence
from coat_core.corpus.generated.sounds import SOUNDS, make_sound
from coat_core.corpus.generated.speech import Synthesiser
from coat_core.corpus.questions import Facts, Task, fact

_NAMES = tuple(SOUNDS)
_COUNTS = ("one", "two", "three", "four")


def _keep(facts: Facts, rng: Generator) -> None:
    facts["times"] = _COUNTS.index(facts["count"]) + 1


def _repeat(facts: Facts, cast: Cast, rng: Generator, synthesiser: Synthesiser) -> Waveform:
    sounds = [make_sound(facts["sound"], cast.source, rng) for _ in range(facts["times"])]
    return sequence(sounds, list(rng.uniform(0.2, 0.4, size=len(sounds) - 1)))


def _pair_facts(facts: Facts, rng: Generator) -> None:
    facts["last"] = draw_without(_NAMES, [facts["first"]], rng)
    heard = (facts["first"], facts["last"])
    facts["target"] = heard[int(rng.integers(2))] if facts["heard"] == "yes" else draw_without(_NAMES, heard, rng)


def _pair(facts: Facts, cast: Cast, rng: Generator, synthesiser: Synthesiser) -> Waveform:
    sounds = [make_sound(facts[place], cast.source, rng) for place in ("first", "last")]
    return sequence(sounds, [float(rng.uniform(0.15, 0.4))])


def _heard(facts: Facts) -> tuple[str, str]:
    return facts["first"], facts["last"]


_SOUND = Task("sound", ("Which sound is this?", "What do you hear?"), fact("sound"), _NAMES)
_COUNT = Task("count", ("How many times does the sound occur?", "How often is the sound heard?"), fact("count"), _COUNTS)
_NUMBER = Task("number", ("Count the sounds. Answer with a number.", "How many sounds are there? Answer with a number."), fact("times"))
_FIRST = Task("first", ("Which sound comes first?", "Which sound is heard first?"), fact("first"), _heard)
_LAST = Task("last", ("Which sound comes last?", "Which sound is at the end?"), fact("last"), _NAMES)
_HEARD = Task("heard", ("Is there a {target}?", "Do you hear a {target}?"), fact("heard"), YES_NO)

RECIPES = (
    Recipe("repeated", "source", {"sound": _NAMES, "count": _COUNTS}, (_SOUND, _COUNT, _NUMBER), _keep, _repeat),
    Recipe("pair", "source", {"first": _NAMES, "heard": YES_NO}, (_FIRST, _LAST, _HEARD), _pair_facts, _pair),
)
