"""Reasoning: comparison of two tones, sounds or speakers, and total counts."""

from __future__ import annotations

import numpy as np
from numpy.random import Generator

from coat_core.corpus.generated.families.recipe import WORDS, YES_NO, Performers, Recipe, draw_without
from coat_core.corpus.generated.mixing import Waveform, gain, normalise, sequence, times
from coat_core.corpus.generated.sounds import envelope, harmonics, make_sound
from coat_core.corpus.generated.speech import Synthesiser
from coat_core.corpus.questions import Facts, Task, fact

_PLACES = ("first", "second")
_SHORT_SOUNDS = ("beep", "hiss", "click", "whistle", "buzz")
_TOTALS = {"three": (2, 1), "four": (3, 1), "five": (4, 1), "six": (4, 2)}
"""Occurrences of the more and of the less frequent sound."""


def _tone_facts(facts: Facts, rng: Generator) -> None:
    semitones, level, short = float(rng.uniform(6, 12)), float(rng.uniform(10, 14)), float(rng.uniform(0.2, 0.3))
    base, long = float(rng.uniform(260, 420)), float(rng.uniform(0.7, 1.0))
    facts["frequency_hz"] = tuple(base * 2 ** (semitones / 12) if facts["higher"] == place else base for place in _PLACES)
    facts["duration_s"] = tuple(long if facts["longer"] == place else short for place in _PLACES)
    facts["level_db"] = tuple(0.0 if facts["louder"] == place else -level for place in _PLACES)


def _tones(facts: Facts, performers: Performers, rng: Generator, synthesiser: Synthesiser) -> Waveform:
    tones = []
    for frequency, duration_s, level in zip(facts["frequency_hz"], facts["duration_s"], facts["level_db"], strict=True):
        t = times(duration_s)
        tone = harmonics(np.full(t.size, frequency * performers.source.pitch), np.arange(1, 9) ** (-1.3 / performers.source.brightness))
        tones.append(normalise(tone * envelope(t, 0.02, 0.03)) * gain(level))
    return sequence(tones, [float(rng.uniform(0.25, 0.4))])


def _mix_facts(facts: Facts, rng: Generator) -> None:
    facts["less"] = draw_without(_SHORT_SOUNDS, [facts["more"]], rng)
    many, few = _TOTALS[facts["total"]]
    starts = facts["more"] if facts["begins"] == "more" else facts["less"]
    rest = [facts["more"]] * many + [facts["less"]] * few
    rest.remove(starts)
    facts["sounds"] = (starts, *(rest[int(i)] for i in rng.permutation(len(rest))))
    facts["first"] = starts


def _mix(facts: Facts, performers: Performers, rng: Generator, synthesiser: Synthesiser) -> Waveform:
    sounds = [make_sound(name, performers.source, rng) for name in facts["sounds"]]
    return sequence(sounds, list(rng.uniform(0.16, 0.26, size=len(sounds) - 1)))


def _speaker_facts(facts: Facts, rng: Generator) -> None:
    second = facts["word"] if facts["same_word"] == "yes" else draw_without(WORDS, [facts["word"]], rng)
    facts["words"] = (facts["word"], second)


def _speakers(facts: Facts, performers: Performers, rng: Generator, synthesiser: Synthesiser) -> Waveform:
    voices = (performers.voice, performers.voice if facts["same_speaker"] == "yes" else performers.other_voice)
    spoken = [normalise(synthesiser.speak(word, voice)) for word, voice in zip(facts["words"], voices, strict=True)]
    return sequence(spoken, [float(rng.uniform(0.25, 0.45))])


def _both(facts: Facts) -> tuple[str, str]:
    return facts["more"], facts["less"]


_HIGHER = Task("higher", ("Which tone is higher?", "Which of the two tones is higher?"), fact("higher"), _PLACES)
_LONGER = Task("longer", ("Which tone is longer?", "Which of the two tones is longer?"), fact("longer"), _PLACES)
_LOUDER = Task("louder", ("Which tone is louder?", "Which of the two tones is louder?"), fact("louder"), _PLACES)
_MORE = Task("more", ("Which sound occurs more often?", "Which sound is there more of?"), fact("more"), _both)
_TOTAL = Task("total", ("How many sounds are there in total?", "Count every sound. How many are there?"), fact("total"), tuple(_TOTALS))
_FIRST = Task("first_of_many", ("Which sound starts the clip?", "With which sound does it begin?"), fact("first"), _both)
_SPEAKER = Task("same_speaker", ("Is it the same speaker twice?", "Are both words said by one speaker?"), fact("same_speaker"), YES_NO)
_WORD = Task("same_word", ("Is it the same word twice?", "Does the second word repeat the first?"), fact("same_word"), YES_NO)
_SECOND = Task("second_word", ("What is the second word?", "Which word comes second?"), lambda facts: facts["words"][1], WORDS)

RECIPES = (
    Recipe(
        "tones",
        "source",
        {"higher": _PLACES, "longer": _PLACES, "louder": _PLACES},
        (_HIGHER, _LONGER, _LOUDER),
        _tone_facts,
        _tones,
        snr_db=(28.0, 40.0),
    ),
    Recipe(
        "mixture",
        "source",
        {"more": _SHORT_SOUNDS, "total": tuple(_TOTALS), "begins": ("more", "less")},
        (_MORE, _TOTAL, _FIRST),
        _mix_facts,
        _mix,
    ),
    Recipe(
        "speakers",
        "voice",
        {"word": WORDS, "same_word": YES_NO, "same_speaker": YES_NO},
        (_SPEAKER, _WORD, _SECOND),
        _speaker_facts,
        _speakers,
    ),
)
