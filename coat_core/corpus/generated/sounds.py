"""Eight classes of synthetic sounds, told apart by pitch, band, modulation and decay; each source makes them its own way."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from coat_core.corpus.audio import SAMPLE_RATE_HZ
from coat_core.corpus.generated.scenes import Waveform, normalise, times


@dataclass(frozen=True)
class Source:
    """What makes one source (or one copy of an instrument) unlike another: factors near 1 on pitch, length, brightness, modulation."""

    pitch: float
    length: float
    brightness: float
    modulation: float

    @classmethod
    def draw(cls, rng: Generator) -> Source:
        """Draw a source."""
        low, high = np.array([-0.2, -0.12, -0.3, -0.2]), np.array([0.2, 0.12, 0.3, 0.2])
        return cls(*(float(value) for value in np.exp(rng.uniform(low, high))))


def make_sound(name: str, source: Source, rng: Generator) -> Waveform:
    """Return one sound of a class in `SOUNDS`, as this source makes it `[N]`, at a common level."""
    return normalise(SOUNDS[name](source, rng))


def harmonics(frequency_hz: Waveform, amplitudes: NDArray[np.floating]) -> Waveform:
    """Return a sum of harmonics of a frequency track `[N]`; those above 7.5 kHz are left out.

    Args:
        frequency_hz: fundamental at each sample `[N]`.
        amplitudes: of the harmonics `[H]`, or of each at each sample `[H, N]`.
    """
    phase = 2.0 * np.pi * np.cumsum(frequency_hz) / SAMPLE_RATE_HZ
    top = float(frequency_hz.max())
    total: Waveform = np.zeros(frequency_hz.size)
    for index, amplitude in enumerate(amplitudes, 1):
        if index * top < 7500.0:
            total += amplitude * np.sin(index * phase)
    return total


def band(noise: Waveform, low_hz: float, high_hz: float) -> Waveform:
    """Keep one band of a noise `[N]`, with edges a third of an octave wide."""
    frequency = np.maximum(np.fft.rfftfreq(noise.size, 1.0 / SAMPLE_RATE_HZ), 1.0)
    edges = np.minimum(np.log2(frequency / low_hz), np.log2(high_hz / frequency))
    return np.fft.irfft(np.fft.rfft(noise) * np.clip(1.0 + 3.0 * edges, 0.0, 1.0), noise.size)


def swell(t: Waveform, attack_s: float, release_s: float) -> Waveform:
    """Return an envelope `[N]` that rises, holds and falls."""
    envelope: Waveform = np.clip(np.minimum(t / attack_s, (t[-1] - t) / release_s), 0.0, 1.0)
    return envelope


def _beep(source: Source, rng: Generator) -> Waveform:
    t = times(0.2 * source.length * rng.uniform(0.9, 1.1))
    frequency = 900.0 * source.pitch * rng.uniform(0.95, 1.05)
    return harmonics(np.full(t.size, frequency), np.array([1.0, 0.1 * source.brightness])) * swell(t, 0.01, 0.01)


def _hiss(source: Source, rng: Generator) -> Waveform:
    t = times(0.35 * source.length * rng.uniform(0.9, 1.1))
    return band(rng.standard_normal(t.size), 3000.0 * source.brightness, 7500.0) * swell(t, 0.04, 0.08)


def _click(source: Source, rng: Generator) -> Waveform:
    t = times(0.06)
    frequency = 2000.0 * source.pitch * rng.uniform(0.95, 1.05)
    return np.exp(-t / (0.006 * source.length)) * (np.sin(2 * np.pi * frequency * t) + 0.7 * rng.standard_normal(t.size))


def _siren(source: Source, rng: Generator) -> Waveform:
    t = times(0.6 * source.length * rng.uniform(0.95, 1.05))
    sweep = 0.5 - 0.5 * np.cos(2 * np.pi * 5.0 * source.modulation * t)
    frequency = 700.0 * source.pitch * 2.0 ** (0.9 * sweep)
    return harmonics(frequency, np.array([1.0, 0.5, 0.3 * source.brightness])) * swell(t, 0.02, 0.04)


def _rumble(source: Source, rng: Generator) -> Waveform:
    t = times(0.6 * source.length * rng.uniform(0.9, 1.1))
    return band(rng.standard_normal(t.size), 40.0, 180.0 * source.brightness) * swell(t, 0.05, 0.3 * source.length)


def _bell(source: Source, rng: Generator) -> Waveform:
    t = times(0.6 * source.length)
    frequency = 620.0 * source.pitch * rng.uniform(0.97, 1.03)
    partials = ((1.0, 1.0, 0.25), (2.0, 0.6, 0.2), (2.76, 0.7, 0.15), (5.4, 0.5 * source.brightness, 0.1), (8.9, 0.3, 0.05))
    return sum((a * np.exp(-t / d) * np.sin(2 * np.pi * min(frequency * r, 7400.0) * t) for r, a, d in partials), np.zeros(t.size))


def _whistle(source: Source, rng: Generator) -> Waveform:
    t = times(0.35 * source.length * rng.uniform(0.95, 1.05))
    frequency = 1600.0 * source.pitch * 2.0 ** (0.9 * t / t[-1]) * rng.uniform(0.97, 1.03)
    return (harmonics(frequency, np.array([1.0, 0.03])) + 0.02 * rng.standard_normal(t.size)) * swell(t, 0.03, 0.04)


def _buzz(source: Source, rng: Generator) -> Waveform:
    t = times(0.3 * source.length * rng.uniform(0.9, 1.1))
    frequency = 120.0 * source.pitch * rng.uniform(0.95, 1.05)
    amplitudes = np.arange(1, 41) ** (-0.6 / source.brightness)
    return harmonics(np.full(t.size, frequency), amplitudes) * swell(t, 0.015, 0.015)


SOUNDS: dict[str, Callable[[Source, Generator], Waveform]] = {
    "beep": _beep, "hiss": _hiss, "click": _click, "siren": _siren, "rumble": _rumble, "bell": _bell, "whistle": _whistle, "buzz": _buzz,
}  # fmt: skip
