"""Six synthetic timbres, each named after the instrument whose attack, spectrum and decay it imitates."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.random import Generator

from coat_core.corpus.generated.scenes import Waveform, normalise, times
from coat_core.corpus.generated.sounds import Source, band, harmonics, swell


def midi_to_hz(note: float) -> float:
    """Return the frequency of a MIDI note (69 is A4, 440 Hz)."""
    return float(440.0 * 2.0 ** ((note - 69.0) / 12.0))


def make_note(instrument: str, note: float, duration_s: float, source: Source, rng: Generator) -> Waveform:
    """Return one note of an instrument in `TIMBRES`, as this copy of it sounds `[N]`, at a common level."""
    return normalise(TIMBRES[instrument](midi_to_hz(note), times(duration_s), source, rng))


def _flute(frequency: float, t: Waveform, source: Source, rng: Generator) -> Waveform:
    breath = band(rng.standard_normal(t.size), frequency * 0.8, min(7000.0, frequency * 6.0))
    tone = harmonics(np.full(t.size, frequency), np.array([1.0, 0.12, 0.04 * source.brightness]))
    return (tone + 0.12 * breath) * (1.0 + 0.15 * np.sin(2 * np.pi * 5.0 * source.modulation * t)) * swell(t, 0.06, 0.05)


def _organ(frequency: float, t: Waveform, source: Source, rng: Generator) -> Waveform:
    stops = np.array([1.0, 0.9, 0.5, 0.8, 0.0, 0.5, 0.0, 0.6 * source.brightness])
    return harmonics(np.full(t.size, frequency), stops) * swell(t, 0.01, 0.015)


def _guitar(frequency: float, t: Waveform, source: Source, rng: Generator) -> Waveform:
    order = np.arange(1, 21)
    # A string plucked at a fifth of its length lacks every fifth harmonic; the higher ones die first.
    pluck = np.abs(np.sin(np.pi * order * 0.21)) / order ** (1.0 / source.brightness)
    decay = np.exp(-t[None, :] * (3.0 + 1.2 * order[:, None]) / source.length)
    return harmonics(np.full(t.size, frequency), pluck[:, None] * decay)


def _trumpet(frequency: float, t: Waveform, source: Source, rng: Generator) -> Waveform:
    order = np.arange(1, 17)
    formant = np.exp(-0.5 * (np.log2(order * frequency / (1500.0 * source.brightness)) / 1.2) ** 2)
    # Brass brightens as it grows louder: the higher harmonics come later.
    onset = np.clip(t[None, :] / (0.02 + 0.012 * order[:, None]), 0.0, 1.0)
    return harmonics(np.full(t.size, frequency), formant[:, None] * onset) * swell(t, 0.02, 0.04)


def _violin(frequency: float, t: Waveform, source: Source, rng: Generator) -> Waveform:
    vibrato = 1.0 + 0.012 * np.sin(2 * np.pi * 6.0 * source.modulation * t + rng.uniform(0, 2 * np.pi))
    amplitudes = np.arange(1, 26) ** (-0.9 / source.brightness)
    return harmonics(frequency * vibrato, amplitudes) * swell(t, 0.09, 0.06)


def _marimba(frequency: float, t: Waveform, source: Source, rng: Generator) -> Waveform:
    partials = ((1.0, 1.0, 0.12), (3.9, 0.5 * source.brightness, 0.04), (9.2, 0.25, 0.02))
    rings = (a * np.exp(-t / (d * source.length)) * np.sin(2 * np.pi * min(frequency * r, 7400.0) * t) for r, a, d in partials)
    return sum(rings, np.zeros(t.size))


TIMBRES: dict[str, Callable[[float, Waveform, Source, Generator], Waveform]] = {
    "flute": _flute, "organ": _organ, "guitar": _guitar, "trumpet": _trumpet, "violin": _violin, "marimba": _marimba,
}  # fmt: skip
