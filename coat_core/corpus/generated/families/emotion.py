"""Emotion: words in six speaking styles, made by pitch, pitch range, rate, pauses, level, spectral tilt and tremor.

The direction of each effect follows the review of Scherer (2003), "Vocal communication of emotion". The sizes are larger than in
natural speech.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from coat_core.corpus.audio import SAMPLE_RATE_HZ
from coat_core.corpus.generated.families.recipe import WORDS, YES_NO, Performers, Recipe, draw_without
from coat_core.corpus.generated.mixing import Waveform, gain, normalise, sequence
from coat_core.corpus.generated.speech import Synthesiser
from coat_core.corpus.questions import Facts, Task, fact


@dataclass(frozen=True)
class Style:
    """A speaking style. Rate (words/min) and pitch (espeak's steps) are relative to the voice; level in dB, tilt in dB/octave."""

    arousal: str
    rate: int
    pitch: tuple[int, int]
    """At the first and at the last word; linear in between."""
    pitch_range: int
    """0 is monotone, 99 the widest range."""
    pause_s: float
    """Mean pause between words."""
    level_db: float
    tilt_db: float
    tremor: float = 0.0
    """Depth of the amplitude modulation, in [0, 1]."""
    drive: float = 0.0
    """Gain before the saturation; 0: no saturation."""


STYLES = {
    "calm": Style("calm", -15, (0, 0), 35, 0.15, -6.0, -1.0),
    "sad": Style("calm", -35, (-15, -35), 10, 0.25, -13.0, -6.0),
    "bored": Style("calm", -45, (-8, -8), 0, 0.45, -8.0, 0.0),
    "happy": Style("excited", 20, (10, 45), 99, 0.07, 0.0, 1.0),
    "angry": Style("excited", 15, (5, -5), 70, 0.05, 3.0, 3.0, drive=5.0),
    "fearful": Style("excited", 55, (40, 40), 15, 0.1, -4.0, 0.0, tremor=0.8),
}
_NAMES = tuple(STYLES)
_AROUSAL = ("calm", "excited")
_AROUSAL_PAIRS = tuple((start, end) for start in _AROUSAL for end in _AROUSAL)


def speak_in_style(words: tuple[str, ...], style: Style, performers: Performers, rng: Generator, synthesiser: Synthesiser) -> Waveform:
    """Return the waveform `[N]` of words spoken in a style."""
    pitches = np.linspace(*style.pitch, num=len(words))
    spoken = [
        _apply_style(
            synthesiser.speak(word, performers.voice, rate=style.rate, pitch=round(float(pitch)), pitch_range=style.pitch_range), style
        )
        for word, pitch in zip(words, pitches, strict=True)
    ]
    return sequence(spoken, list(style.pause_s * rng.uniform(0.85, 1.15, size=len(words) - 1)))


def _apply_style(word: NDArray[np.float32], style: Style) -> Waveform:
    """Apply drive (saturation), tilt (0 dB at 500 Hz), tremor (8 Hz) and level to a spoken word."""
    values = np.asarray(word, np.float64)
    if style.drive:
        values = np.tanh(style.drive * values / np.abs(values).max())
    octaves = np.log2(np.maximum(np.fft.rfftfreq(values.size, 1.0 / SAMPLE_RATE_HZ), 100.0) / 500.0)
    values = np.fft.irfft(np.fft.rfft(values) * 10.0 ** (style.tilt_db * octaves / 20.0), values.size)
    if style.tremor:
        values = values * (1.0 - style.tremor * (0.5 - 0.5 * np.cos(2 * np.pi * 8.0 * np.arange(values.size) / SAMPLE_RATE_HZ)))
    return normalise(values, -22.0) * gain(style.level_db)


def _words(count: int, rng: Generator) -> tuple[str, ...]:
    return tuple(WORDS[int(i)] for i in rng.integers(len(WORDS), size=count))


def _single_facts(facts: Facts, rng: Generator) -> None:
    facts["words"] = _words(3, rng)
    facts["arousal"] = STYLES[facts["style"]].arousal
    facts["target"] = facts["style"] if facts["is_target"] == "yes" else draw_without(_NAMES, [facts["style"]], rng)


def _single(facts: Facts, performers: Performers, rng: Generator, synthesiser: Synthesiser) -> Waveform:
    return speak_in_style(facts["words"], STYLES[facts["style"]], performers, rng, synthesiser)


def _change_facts(facts: Facts, rng: Generator) -> None:
    facts["start"], facts["end"] = facts["course"]
    facts["changes"] = "no" if facts["start"] == facts["end"] else "yes"
    style = {arousal: draw_without([n for n in _NAMES if STYLES[n].arousal == arousal], [], rng) for arousal in _AROUSAL}
    facts["styles"] = (style[facts["start"]], style[facts["end"]])
    facts["words"] = _words(4, rng)


def _change(facts: Facts, performers: Performers, rng: Generator, synthesiser: Synthesiser) -> Waveform:
    halves = zip((facts["words"][:2], facts["words"][2:]), facts["styles"], strict=True)
    return sequence([speak_in_style(words, STYLES[name], performers, rng, synthesiser) for words, name in halves], [0.3])


_STYLE = Task("style", ("How does the speaker feel?", "What is the speaker's emotion?"), fact("style"), _NAMES)
_EXCITED = Task("arousal", ("Is the speaker excited or calm?", "Does the voice sound excited or calm?"), fact("arousal"), _AROUSAL)
_IS = Task("is_style", ("Is the speaker {target}?", "Does the voice sound {target}?"), fact("is_target"), YES_NO)
_START = Task("start", ("At the start, is the speaker excited or calm?", "How does the speaker begin?"), fact("start"), _AROUSAL)
_END = Task("end", ("At the end, is the speaker excited or calm?", "How does the speaker finish?"), fact("end"), _AROUSAL)
_CHANGES = Task("change", ("Does the speaker's mood change?", "Does the mood change?"), fact("changes"), YES_NO)

# Loudness is a cue of emotion, so the level of the whole clip varies less than in other families.
_LEVEL_DB, _SNR_DB = (-3.0, 1.0), (22.0, 35.0)
RECIPES = (
    Recipe("single", "voice", {"style": _NAMES, "is_target": YES_NO}, (_STYLE, _EXCITED, _IS), _single_facts, _single, _LEVEL_DB, _SNR_DB),
    Recipe("change", "voice", {"course": _AROUSAL_PAIRS}, (_START, _END, _CHANGES), _change_facts, _change, _LEVEL_DB, _SNR_DB),
)
