"""Putting sounds into a clip: silence around them, a background, a level."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from coat_core.corpus.audio import SAMPLE_RATE_HZ
from coat_core.errors import CorpusError

Waveform = NDArray[np.float64]

MIN_CLIP_S = 1.0
_PEAK = 0.95
_FADE_S = 0.004


def seconds(duration_s: float) -> int:
    """Return a duration in samples."""
    return round(duration_s * SAMPLE_RATE_HZ)


def times(duration_s: float) -> Waveform:
    """Return the sample times `[N]` of a sound, in seconds."""
    return np.arange(seconds(duration_s)) / SAMPLE_RATE_HZ


def gain(decibels: float) -> float:
    """Return the factor of a level change."""
    return float(10.0 ** (decibels / 20.0))


def sequence(sounds: Sequence[NDArray[np.floating]], gaps_s: Sequence[float]) -> Waveform:
    """Join sounds with silence between them; `gaps_s` has one entry fewer than `sounds`."""
    assert len(gaps_s) == len(sounds) - 1
    parts: list[Waveform] = []
    for index, sound in enumerate(sounds):
        parts.append(_faded(np.asarray(sound, np.float64)))
        if index < len(gaps_s):
            parts.append(np.zeros(seconds(gaps_s[index])))
    return np.concatenate(parts)


def normalise(sound: NDArray[np.floating], rms_dbfs: float = -20.0) -> Waveform:
    """Scale a sound to a level, measured where it sounds; the peak stays below full scale."""
    values = np.asarray(sound, np.float64)
    loud = values[np.abs(values) > 0.01 * np.abs(values).max()]
    scaled = values * (gain(rms_dbfs) / _rms(loud))
    return scaled * min(1.0, _PEAK / float(np.abs(scaled).max()))


def scene(
    content: Waveform, rng: Generator, *, max_duration_s: float, level_db: tuple[float, float], snr_db: tuple[float, float]
) -> Waveform:
    """Set content into a clip: an onset and an end drawn at random, a coloured background, a level.

    Args:
        content: what is to be heard `[N]`.
        rng: the clip's generator.
        max_duration_s: longest clip allowed.
        level_db: range of the level change of the whole clip, dB.
        snr_db: range of the content's level over the background, dB.

    Raises:
        CorpusError: the content alone is longer than a clip may be.
    """
    room = seconds(max_duration_s) - content.size
    if room < 0:
        needed = round(content.size / SAMPLE_RATE_HZ + 0.05, 1)
        message = "a generated clip does not fit"
        raise CorpusError(message, field="corpus.max_duration_s", value=max_duration_s, allowed=f"at least {needed}")
    before, after = (seconds(float(rng.uniform(0.05, 0.45))) for _ in range(2))
    after = max(after, seconds(MIN_CLIP_S) - content.size - before)
    if before + after > room:
        before, after = before * room // (before + after), after * room // (before + after)
    clip = np.concatenate([np.zeros(before), content, np.zeros(after)])
    loud = content[np.abs(content) > 0.01 * np.abs(content).max()]
    noise = background(clip.size, float(rng.uniform(0.0, 1.0)), rng)
    clip = clip + noise * (_rms(loud) / gain(float(rng.uniform(*snr_db))))
    clip = clip * gain(float(rng.uniform(*level_db)))
    return clip * min(1.0, _PEAK / float(np.abs(clip).max()))


def background(size: int, slope: float, rng: Generator) -> Waveform:
    """Return noise `[size]` of RMS 1 whose power falls as 1 / f^slope (0 white, 1 pink)."""
    # Made longer and cut: a transform whose length is a large prime takes many times as long.
    longer = -(-size // 2048) * 2048
    spectrum = np.fft.rfft(rng.standard_normal(longer))
    frequency = np.maximum(np.fft.rfftfreq(longer, 1.0 / SAMPLE_RATE_HZ), 50.0)
    noise = np.fft.irfft(spectrum * frequency ** (-slope / 2.0), longer)[:size]
    return noise / _rms(noise)


def _rms(values: Waveform) -> float:
    return float(np.sqrt(np.mean(values**2)))


def _faded(sound: Waveform) -> Waveform:
    """Take the edges off, so that no cut is heard as a click."""
    size = min(seconds(_FADE_S), sound.size // 2)
    ramp = np.ones(sound.size)
    ramp[:size] = np.linspace(0.0, 1.0, size, endpoint=False)
    ramp[sound.size - size :] = np.linspace(1.0, 0.0, size)
    return sound * ramp
