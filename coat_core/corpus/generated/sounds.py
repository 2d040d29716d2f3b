"""Synthetic sounds: eight classes of sound events and the notes of six instruments.

The classes differ in pitch, frequency band, modulation and decay. A `Source` varies the sounds of one source or one copy of an instrument.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from coat_core.corpus.audio import SAMPLE_RATE_HZ
from coat_core.corpus.generated.mixing import Waveform, normalise, times


@dataclass(frozen=True)
class Source:
    """Variation of one source (or of one copy of an instrument): factors near 1 on pitch, length, brightness and modulation."""

    pitch: float
    length: float
    brightness: float
    modulation: float

    @classmethod
    def draw(cls, rng: Generator) -> Source:
        """Draw a random source."""
        low, high = np.array([-0.2, -0.12, -0.3, -0.2]), np.array([0.2, 0.12, 0.3, 0.2])
        return cls(*(float(value) for value in np.exp(rng.uniform(low, high))))


def make_sound(name: str, source: Source, rng: Generator) -> Waveform:
    """Return one sound `[N]` of a class in `SOUNDS`, varied by `source`, at -20 dBFS RMS."""
    return normalise(SOUNDS[name](source, rng))


def midi_to_hz(note: float) -> float:
    """Return the frequency of a MIDI note (69 is A4, 440 Hz)."""
    return float(440.0 * 2.0 ** ((note - 69.0) / 12.0))


def make_note(instrument: str, note: float, duration_s: float, source: Source, rng: Generator) -> Waveform:
    """Return one note `[N]` of an instrument in `INSTRUMENTS`, varied by `source`, at -20 dBFS RMS."""
    return normalise(INSTRUMENTS[instrument](midi_to_hz(note), times(duration_s), source, rng))


def harmonics(frequency_hz: Waveform, amplitudes: NDArray[np.floating]) -> Waveform:
    """Return a sum of harmonics `[N]`. Harmonics above 7.5 kHz are omitted.

    Args:
        frequency_hz: fundamental frequency at each sample `[N]`.
        amplitudes: amplitudes of the harmonics, constant `[H]` or at each sample `[H, N]`.
    """
    phase = 2.0 * np.pi * np.cumsum(frequency_hz) / SAMPLE_RATE_HZ
    top = float(frequency_hz.max())
    total: Waveform = np.zeros(frequency_hz.size)
    for index, amplitude in enumerate(amplitudes, 1):
        if index * top < 7500.0:
            total += amplitude * np.sin(index * phase)
    return total


def band_pass(noise: Waveform, low_hz: float, high_hz: float) -> Waveform:
    """Band-pass filter a noise `[N]`, with transition bands of a third of an octave."""
    frequency = np.maximum(np.fft.rfftfreq(noise.size, 1.0 / SAMPLE_RATE_HZ), 1.0)
    edges = np.minimum(np.log2(frequency / low_hz), np.log2(high_hz / frequency))
    return np.fft.irfft(np.fft.rfft(noise) * np.clip(1.0 + 3.0 * edges, 0.0, 1.0), noise.size)


def envelope(t: Waveform, attack_s: float, release_s: float) -> Waveform:
    """Return an amplitude envelope `[N]` with linear attack and release."""
    gain: Waveform = np.clip(np.minimum(t / attack_s, (t[-1] - t) / release_s), 0.0, 1.0)
    return gain


def _beep(source: Source, rng: Generator) -> Waveform:
    t = times(0.2 * source.length * rng.uniform(0.9, 1.1))
    frequency = 900.0 * source.pitch * rng.uniform(0.95, 1.05)
    return harmonics(np.full(t.size, frequency), np.array([1.0, 0.1 * source.brightness])) * envelope(t, 0.01, 0.01)


def _hiss(source: Source, rng: Generator) -> Waveform:
    t = times(0.35 * source.length * rng.uniform(0.9, 1.1))
    return band_pass(rng.standard_normal(t.size), 3000.0 * source.brightness, 7500.0) * envelope(t, 0.04, 0.08)


def _click(source: Source, rng: Generator) -> Waveform:
    t = times(0.06)
    frequency = 2000.0 * source.pitch * rng.uniform(0.95, 1.05)
    return np.exp(-t / (0.006 * source.length)) * (np.sin(2 * np.pi * frequency * t) + 0.7 * rng.standard_normal(t.size))


def _siren(source: Source, rng: Generator) -> Waveform:
    t = times(0.6 * source.length * rng.uniform(0.95, 1.05))
    sweep = 0.5 - 0.5 * np.cos(2 * np.pi * 5.0 * source.modulation * t)
    frequency = 700.0 * source.pitch * 2.0 ** (0.9 * sweep)
    return harmonics(frequency, np.array([1.0, 0.5, 0.3 * source.brightness])) * envelope(t, 0.02, 0.04)


def _rumble(source: Source, rng: Generator) -> Waveform:
    t = times(0.6 * source.length * rng.uniform(0.9, 1.1))
    return band_pass(rng.standard_normal(t.size), 40.0, 180.0 * source.brightness) * envelope(t, 0.05, 0.3 * source.length)


def _bell(source: Source, rng: Generator) -> Waveform:
    t = times(0.6 * source.length)
    frequency = 620.0 * source.pitch * rng.uniform(0.97, 1.03)
    partials = ((1.0, 1.0, 0.25), (2.0, 0.6, 0.2), (2.76, 0.7, 0.15), (5.4, 0.5 * source.brightness, 0.1), (8.9, 0.3, 0.05))
    return sum((a * np.exp(-t / d) * np.sin(2 * np.pi * min(frequency * r, 7400.0) * t) for r, a, d in partials), np.zeros(t.size))


def _whistle(source: Source, rng: Generator) -> Waveform:
    t = times(0.35 * source.length * rng.uniform(0.95, 1.05))
    frequency = 1600.0 * source.pitch * 2.0 ** (0.9 * t / t[-1]) * rng.uniform(0.97, 1.03)
    return (harmonics(frequency, np.array([1.0, 0.03])) + 0.02 * rng.standard_normal(t.size)) * envelope(t, 0.03, 0.04)


def _buzz(source: Source, rng: Generator) -> Waveform:
    t = times(0.3 * source.length * rng.uniform(0.9, 1.1))
    frequency = 120.0 * source.pitch * rng.uniform(0.95, 1.05)
    amplitudes = np.arange(1, 41) ** (-0.6 / source.brightness)
    return harmonics(np.full(t.size, frequency), amplitudes) * envelope(t, 0.015, 0.015)


def _flute(frequency: float, t: Waveform, source: Source, rng: Generator) -> Waveform:
    breath = band_pass(rng.standard_normal(t.size), frequency * 0.8, min(7000.0, frequency * 6.0))
    tone = harmonics(np.full(t.size, frequency), np.array([1.0, 0.12, 0.04 * source.brightness]))
    return (tone + 0.12 * breath) * (1.0 + 0.15 * np.sin(2 * np.pi * 5.0 * source.modulation * t)) * envelope(t, 0.06, 0.05)


def _organ(frequency: float, t: Waveform, source: Source, rng: Generator) -> Waveform:
    stops = np.array([1.0, 0.9, 0.5, 0.8, 0.0, 0.5, 0.0, 0.6 * source.brightness])
    return harmonics(np.full(t.size, frequency), stops) * envelope(t, 0.01, 0.015)


def _guitar(frequency: float, t: Waveform, source: Source, rng: Generator) -> Waveform:
    order = np.arange(1, 21)
    # A string plucked at a fifth of its length has almost no fifth, tenth, … harmonic. Higher harmonics decay faster.
    pluck = np.abs(np.sin(np.pi * order * 0.21)) / order ** (1.0 / source.brightness)
    decay = np.exp(-t[None, :] * (3.0 + 1.2 * order[:, None]) / source.length)
    return harmonics(np.full(t.size, frequency), pluck[:, None] * decay)


def _trumpet(frequency: float, t: Waveform, source: Source, rng: Generator) -> Waveform:
    order = np.arange(1, 17)
    formant = np.exp(-0.5 * (np.log2(order * frequency / (1500.0 * source.brightness)) / 1.2) ** 2)
    # The spectrum of a brass tone becomes brighter during the attack: higher harmonics start later.
    onset = np.clip(t[None, :] / (0.02 + 0.012 * order[:, None]), 0.0, 1.0)
    return harmonics(np.full(t.size, frequency), formant[:, None] * onset) * envelope(t, 0.02, 0.04)


def _violin(frequency: float, t: Waveform, source: Source, rng: Generator) -> Waveform:
    vibrato = 1.0 + 0.012 * np.sin(2 * np.pi * 6.0 * source.modulation * t + rng.uniform(0, 2 * np.pi))
    amplitudes = np.arange(1, 26) ** (-0.9 / source.brightness)
    return harmonics(frequency * vibrato, amplitudes) * envelope(t, 0.09, 0.06)


def _marimba(frequency: float, t: Waveform, source: Source, rng: Generator) -> Waveform:
    partials = ((1.0, 1.0, 0.12), (3.9, 0.5 * source.brightness, 0.04), (9.2, 0.25, 0.02))
    rings = (a * np.exp(-t / (d * source.length)) * np.sin(2 * np.pi * min(frequency * r, 7400.0) * t) for r, a, d in partials)
    return sum(rings, np.zeros(t.size))


SOUNDS: dict[str, Callable[[Source, Generator], Waveform]] = {
    "beep": _beep, "hiss": _hiss, "click": _click, "siren": _siren, "rumble": _rumble, "bell": _bell, "whistle": _whistle, "buzz": _buzz,
}  # fmt: skip

INSTRUMENTS: dict[str, Callable[[float, Waveform, Source, Generator], Waveform]] = {
    "flute": _flute, "organ": _organ, "guitar": _guitar, "trumpet": _trumpet, "violin": _violin, "marimba": _marimba,
}  # fmt: skip
