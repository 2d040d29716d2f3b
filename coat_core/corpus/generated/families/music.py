"""Music: instrument, register, tempo and interval."""

from __future__ import annotations

import numpy as np
from numpy.random import Generator

from coat_core.corpus.generated.families.recipe import Performers, Recipe
from coat_core.corpus.generated.mixing import Waveform, sequence
from coat_core.corpus.generated.sounds import INSTRUMENTS, make_note
from coat_core.corpus.generated.speech import Synthesiser
from coat_core.corpus.questions import Facts, Task, fact

_INSTRUMENTS = tuple(INSTRUMENTS)
_REGISTERS = {"low": (42, 48), "middle": (60, 66), "high": (78, 84)}
_TEMPI = {"slow": (0.6, 0.72, 4), "medium": (0.33, 0.39, 7), "fast": (0.17, 0.2, 12)}
"""Range of the time between notes in seconds, and the number of notes."""
_SIZES = {"small": (2, 3), "large": (9, 12)}
"""Range of the interval in semitones, both ends included."""


def _tune_facts(facts: Facts, rng: Generator) -> None:
    low, high = _REGISTERS[facts["register"]]
    shortest, longest, count = _TEMPI[facts["tempo"]]
    facts["spacing_s"] = float(rng.uniform(shortest, longest))
    facts["notes"] = tuple(int(note) for note in rng.integers(low, high + 1, size=count))


def _interval_facts(facts: Facts, rng: Generator) -> None:
    low, high = _SIZES[facts["size"]]
    start, step = int(rng.integers(57, 70)), int(rng.integers(low, high + 1))
    facts["notes"] = (start, start + (step if facts["direction"] == "up" else -step))
    facts["spacing_s"] = float(rng.uniform(0.5, 0.65))


def _play(facts: Facts, performers: Performers, rng: Generator, synthesiser: Synthesiser) -> Waveform:
    # Copies of an instrument differ in tuning by at most half a semitone, which does not change intervals and registers.
    tuning = float(np.clip(2.0 * np.log2(performers.source.pitch), -0.5, 0.5))
    duration_s = 0.88 * facts["spacing_s"]
    notes = [make_note(facts["instrument"], note + tuning, duration_s, performers.source, rng) for note in facts["notes"]]
    return sequence(notes, [0.12 * facts["spacing_s"]] * (len(notes) - 1))


_INSTRUMENT = Task("instrument", ("Which instrument plays?", "What instrument is this?"), fact("instrument"), _INSTRUMENTS)
_REGISTER = Task("register", ("In which register is the tune?", "Are the notes low, middle or high?"), fact("register"), tuple(_REGISTERS))
_TEMPO = Task("tempo", ("What is the tempo?", "How fast is the tune?"), fact("tempo"), tuple(_TEMPI))
_DIRECTION = Task("direction", ("Does the tune go up or down?", "Is the second note up or down?"), fact("direction"), ("up", "down"))
_SIZE = Task("interval", ("Is the interval small or large?", "How large is the step between the notes?"), fact("size"), tuple(_SIZES))

RECIPES = (
    Recipe(
        "tune",
        "source",
        {"instrument": _INSTRUMENTS, "register": tuple(_REGISTERS), "tempo": tuple(_TEMPI)},
        (_INSTRUMENT, _REGISTER, _TEMPO),
        _tune_facts,
        _play,
    ),
    Recipe(
        "interval",
        "source",
        {"instrument": _INSTRUMENTS, "direction": ("up", "down"), "size": tuple(_SIZES)},
        (_DIRECTION, _SIZE, _INSTRUMENT),
        _interval_facts,
        _play,
    ),
)
