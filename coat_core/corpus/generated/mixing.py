"""Mixing of sounds into one clip: silence before and after, background noise, level. Waveforms are float64 `[N]` at 16 kHz."""

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


def to_samples(duration_s: float) -> int:
    """Return the number of samples of a duration."""
    return round(duration_s * SAMPLE_RATE_HZ)


def times(duration_s: float) -> Waveform:
    """Return the sample times `[N]` of a sound, in seconds."""
    return np.arange(to_samples(duration_s)) / SAMPLE_RATE_HZ


def gain(decibels: float) -> float:
    """Return the linear factor of a level change in dB."""
    return float(10.0 ** (decibels / 20.0))


def sequence(sounds: Sequence[NDArray[np.floating]], gaps_s: Sequence[float]) -> Waveform:
    """Join sounds with silence between them. `gaps_s` has one element fewer than `sounds`."""
    assert len(gaps_s) == len(sounds) - 1
    parts: list[Waveform] = []
    for index, sound in enumerate(sounds):
        parts.append(_faded(np.asarray(sound, np.float64)))
        if index < len(gaps_s):
            parts.append(np.zeros(to_samples(gaps_s[index])))
    return np.concatenate(parts)


def normalise(sound: NDArray[np.floating], rms_dbfs: float = -20.0) -> Waveform:
    """Scale a sound to an RMS level, measured on its non-silent samples. The peak stays below full scale."""
    values = np.asarray(sound, np.float64)
    loud = values[np.abs(values) > 0.01 * np.abs(values).max()]
    scaled = values * (gain(rms_dbfs) / _rms(loud))
    return scaled * min(1.0, _PEAK / float(np.abs(scaled).max()))


def mix_clip(
    content: Waveform, rng: Generator, *, max_duration_s: float, level_db: tuple[float, float], snr_db: tuple[float, float]
) -> Waveform:
    """Mix content into a clip with random margins, coloured background noise and a random level.

    Args:
        content: the sounds `[N]`.
        rng: the clip's generator.
        max_duration_s: longest duration of a clip.
        level_db: range of the level change of the whole clip, dB.
        snr_db: range of the signal-to-noise ratio, dB.

    Returns:
        The clip `[M]`, within ±0.95.

    Raises:
        CorpusError: the content is longer than `max_duration_s`.
    """
    room = to_samples(max_duration_s) - content.size
    if room < 0:
        needed = round(content.size / SAMPLE_RATE_HZ + 0.05, 1)
        message = "a generated clip does not fit"
        raise CorpusError(message, field="corpus.max_duration_s", value=max_duration_s, allowed=f"at least {needed}")
    before, after = (to_samples(float(rng.uniform(0.05, 0.45))) for _ in range(2))
    after = max(after, to_samples(MIN_CLIP_S) - content.size - before)
    if before + after > room:
        before, after = before * room // (before + after), after * room // (before + after)
    clip = np.concatenate([np.zeros(before), content, np.zeros(after)])
    loud = content[np.abs(content) > 0.01 * np.abs(content).max()]
    noise = coloured_noise(clip.size, float(rng.uniform(0.0, 1.0)), rng)
    clip = clip + noise * (_rms(loud) / gain(float(rng.uniform(*snr_db))))
    clip = clip * gain(float(rng.uniform(*level_db)))
    return clip * min(1.0, _PEAK / float(np.abs(clip).max()))


def coloured_noise(size: int, slope: float, rng: Generator) -> Waveform:
    """Return noise `[size]` of RMS 1 whose power decreases as 1 / f^slope (0 white, 1 pink)."""
    # The FFT length is a multiple of 2048: a large prime length takes many times as long.
    longer = -(-size // 2048) * 2048
    spectrum = np.fft.rfft(rng.standard_normal(longer))
    frequency = np.maximum(np.fft.rfftfreq(longer, 1.0 / SAMPLE_RATE_HZ), 50.0)
    noise = np.fft.irfft(spectrum * frequency ** (-slope / 2.0), longer)[:size]
    return noise / _rms(noise)


def _rms(values: Waveform) -> float:
    return float(np.sqrt(np.mean(values**2)))


def _faded(sound: Waveform) -> Waveform:
    """Apply 4 ms ramps at both ends to avoid clicks."""
    size = min(to_samples(_FADE_S), sound.size // 2)
    ramp = np.ones(sound.size)
    ramp[:size] = np.linspace(0.0, 1.0, size, endpoint=False)
    ramp[sound.size - size :] = np.linspace(1.0, 0.0, size)
    return sound * ramp
