"""Labelled scenes for the classifiers: generated sounds on a time line, with the room, the microphone and the noise varied."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import soxr
from numpy.random import Generator
from numpy.typing import NDArray

from coat_core.corpus.audio import SAMPLE_RATE_HZ
from coat_core.corpus.generated.families.emotion import STYLES, Style, speak_in_style
from coat_core.corpus.generated.families.recipe import WORDS, Performers
from coat_core.corpus.generated.mixing import Waveform, coloured_noise, gain, normalise, times
from coat_core.corpus.generated.sounds import INSTRUMENTS, SOUNDS, Source, make_note, make_sound, midi_to_hz
from coat_core.corpus.generated.speech import VOICES, Synthesiser
from coat_core.experts.fitting.environment import ENVIRONMENT, WINDS

_TEXTS = (
    "the weather is fine today", "where did you put the keys", "i will be there in a minute", "the door was open all night",
    "please leave it on the table", "they are waiting for the bus", "nobody knew what to say", "we walked along the river",
)  # fmt: skip
_STYLES = {
    **STYLES,
    "neutral": Style("calm", 0, (0, 0), 50, 0.1, -2.0, 0.0),
    "surprised": Style("excited", 10, (0, 60), 99, 0.08, 0.0, 1.0),
    "disgusted": Style("calm", -30, (-10, -25), 60, 0.2, -4.0, 2.0, drive=2.0),
}


@dataclass(frozen=True)
class Sound:
    """A sound `[N]` at 16 kHz and its classes."""

    waveform: Waveform
    classes: tuple[str, ...]


@dataclass(frozen=True)
class Scene:
    """A clip `[N]` at 16 kHz and where its sounds are: class, first and last second."""

    waveform: Waveform
    spans: tuple[tuple[str, float, float], ...]


@dataclass(frozen=True)
class Recipe:
    """What a classifier is fitted on: its classes, and a function that draws the sounds of scene number i."""

    classes: tuple[str, ...]
    draw: Callable[[int, Generator, Synthesiser], Sequence[Sound]]
    gap_s: tuple[float, float]
    """Silence between two sounds."""


def draw_scene(recipe: Recipe, index: int, rng: Generator, synthesiser: Synthesiser) -> Scene:
    """Return scene number `index` of a recipe; one in twelve has no sound, only noise."""
    sounds = recipe.draw(index, rng, synthesiser) if index % 12 != 11 else ()
    spans, parts, at = [], [np.zeros(round(rng.uniform(0.02, 0.5) * SAMPLE_RATE_HZ))], 0.0
    for sound in sounds:
        at = sum(part.size for part in parts) / SAMPLE_RATE_HZ
        spans += [(name, at, at + sound.waveform.size / SAMPLE_RATE_HZ) for name in sound.classes]
        parts += [sound.waveform, np.zeros(round(rng.uniform(*recipe.gap_s) * SAMPLE_RATE_HZ))]
    clip = np.concatenate([*parts, np.zeros(round(rng.uniform(0.0, 0.5) * SAMPLE_RATE_HZ))])
    return Scene(_recorded(clip, rng), tuple(spans))


def _recorded(clip: Waveform, rng: Generator) -> Waveform:
    """Return the clip through a random room, microphone and recorder: reverberation, filter, band limit, noise, level."""
    if rng.random() < 0.5:
        t = times(rng.uniform(0.1, 0.5))
        room = rng.standard_normal(t.size) * np.exp(-6.9 * t / t[-1])
        wet = np.fft.irfft(np.fft.rfft(clip, 2 * clip.size) * np.fft.rfft(room, 2 * clip.size))[: clip.size]
        clip = clip + wet * gain(rng.uniform(-25, -6)) / np.sqrt(np.sum(room**2))
    octaves = np.log2(np.maximum(np.fft.rfftfreq(clip.size, 1.0 / SAMPLE_RATE_HZ), 40.0) / 1000.0)
    response = rng.uniform(-3.0, 3.0) * octaves
    for _ in range(3):
        response = response + rng.uniform(-6.0, 6.0) * np.exp(-0.5 * ((octaves - rng.uniform(-4, 3)) / rng.uniform(0.3, 1.0)) ** 2)
    if rng.random() < 0.4:
        response = response - 40.0 * np.clip(3.0 * (octaves - np.log2(rng.uniform(3.3, 7.0))), 0.0, 1.5)
    clip = np.fft.irfft(np.fft.rfft(clip) * 10.0 ** (response / 20.0), clip.size)
    level = max(float(np.sqrt(np.mean(clip**2))), 1e-3)
    clip = clip + coloured_noise(clip.size, rng.uniform(0.0, 1.5), rng) * level * gain(-rng.uniform(8, 55))
    return np.asarray(clip * (10.0 ** rng.uniform(-1.3, 0.0) * 0.95 / float(np.abs(clip).max())))


def _performers(rng: Generator) -> Performers:
    """Return a random voice of the training split of the generated corpus, never one of its other splits."""
    voice = VOICES["train"][int(rng.integers(len(VOICES["train"])))]
    voice = replace(voice, pitch=int(np.clip(voice.pitch + rng.integers(-12, 13), 0, 99)))
    return Performers("fitting", voice, voice, Source.draw(rng))


def _resized(speech: Waveform, factor: float) -> Waveform:
    """Return speech with all frequencies, the formants included, raised by `factor`."""
    return np.asarray(soxr.resample(speech, SAMPLE_RATE_HZ * factor, SAMPLE_RATE_HZ, quality="HQ"))


def _sounds(index: int, rng: Generator, synthesiser: Synthesiser) -> list[Sound]:
    """Draw one to three sounds of one class or of several."""
    names = [SOUND_NAMES[(index + int(rng.integers(1000)) * place) % len(SOUND_NAMES)] for place in range(int(rng.integers(1, 4)))]
    return [Sound(normalise(_sound(name, rng, synthesiser)) * gain(rng.uniform(-8, 0)), (name,)) for name in names]


def _sound(name: str, rng: Generator, synthesiser: Synthesiser) -> Waveform:
    if name in SOUNDS:
        return make_sound(name, Source.draw(rng), rng)
    if name in ENVIRONMENT:
        return ENVIRONMENT[name](rng)
    if name == "speech":
        performers = _performers(rng)
        spoken: NDArray[np.floating] = synthesiser.speak(_TEXTS[int(rng.integers(len(_TEXTS)))], performers.voice)
        return _resized(np.asarray(spoken, np.float64), 2.0 ** rng.uniform(-0.3, 0.3))
    lasts = rng.uniform(0.2, 1.5)
    if name in WINDS:
        play, (low, high) = WINDS[name]
        return play(times(lasts), midi_to_hz(rng.uniform(low, high)), rng)
    return make_note(name, rng.uniform(42, 88), lasts, Source.draw(rng), rng)


def _styled(index: int, rng: Generator, synthesiser: Synthesiser) -> list[Sound]:
    """Draw one utterance in one style, or two in two styles."""
    performers, factor, sounds = _performers(rng), 2.0 ** rng.uniform(-0.2, 0.2), []
    names = list(_STYLES)
    for place in range(int(rng.integers(1, 3))):
        name = names[(index + place * int(rng.integers(1, len(names)))) % len(names)]
        words = [WORDS[int(i)] for i in rng.integers(len(WORDS), size=int(rng.integers(2, 5)))]
        words = words if rng.random() < 0.5 else _TEXTS[int(rng.integers(len(_TEXTS)))].split()
        style = _varied(_STYLES[name], rng)
        spoken = _resized(speak_in_style(tuple(words), style, performers, rng, synthesiser), factor)
        height = ("high voice",) if performers.voice.high else ("low voice",)
        sounds.append(Sound(spoken, (name, style.arousal if style.arousal == "excited" else "not excited", *height, "speech")))
    return sounds


def _varied(style: Style, rng: Generator) -> Style:
    """Return a style with random deviations, so that no single cue identifies it."""
    shift = int(rng.integers(-6, 7))
    return replace(
        style,
        rate=style.rate + int(rng.integers(-12, 13)),
        pitch=(style.pitch[0] + shift, style.pitch[1] + shift + int(rng.integers(-6, 7))),
        pitch_range=int(np.clip(style.pitch_range + rng.integers(-15, 16), 0, 99)),
        pause_s=style.pause_s * rng.uniform(0.3, 1.2),
        level_db=style.level_db + rng.uniform(-3, 3),
        tilt_db=style.tilt_db + rng.uniform(-1.5, 1.5),
        tremor=style.tremor * rng.uniform(0.5, 1.0),
        drive=style.drive * rng.uniform(0.6, 1.4),
    )


def _spoken(index: int, rng: Generator, synthesiser: Synthesiser) -> list[Sound]:
    """Draw one to five words of one speaker."""
    performers, factor = _performers(rng), 2.0 ** rng.uniform(-0.3, 0.3)
    rate, pitch, pitch_range = int(rng.integers(-35, 36)), int(rng.integers(-15, 16)), int(rng.integers(10, 90))
    words = [WORDS[(index + place * int(rng.integers(1, 1000))) % len(WORDS)] for place in range(int(rng.integers(1, 6)))]
    spoken = [synthesiser.speak(word, performers.voice, rate=rate, pitch=pitch, pitch_range=pitch_range) for word in words]
    return [
        Sound(normalise(_resized(np.asarray(sound, np.float64), factor)) * gain(rng.uniform(-4, 0)), (word, "speech"))
        for word, sound in zip(words, spoken, strict=True)
    ]


SOUND_NAMES = (*SOUNDS, *ENVIRONMENT, *INSTRUMENTS, *WINDS, "speech")
RECIPES = {
    "sound": Recipe(SOUND_NAMES, _sounds, (0.02, 0.5)),
    "style": Recipe((*_STYLES, "excited", "not excited", "high voice", "low voice", "speech"), _styled, (0.1, 0.5)),
    "word": Recipe((*WORDS, "speech"), _spoken, (0.02, 0.4)),
}
"""The classifiers: name → what it is fitted on."""
