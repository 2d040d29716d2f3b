"""Pitch expert: a soft choice of semitone, and how sure it is that there is a pitch at all."""

from __future__ import annotations

import numpy as np

from coat_core.experts.acoustic.f0 import LOWEST_HZ, track_pitch
from coat_core.experts.acoustic.framing import AcousticExpert, Floats, acoustic_spec

SEMITONES = 61
"""A1 (55 Hz) to A6 (1760 Hz)."""
_WIDTH_SEMITONES = 0.5
_NAMES = ("A", "A#", "B", "C", "C#", "D", "D#", "E", "F", "F#", "G", "G#")


def f0_bins(waveform: Floats) -> Floats:
    """Return 61 semitone posteriors (sum 1 where voiced, all 0 elsewhere) and the voicing probability `[T, 62]`."""
    track = track_pitch(waveform)
    return np.concatenate([semitone_posteriors(track.f0_hz), track.voicing[:, None]], axis=1)


def semitone_posteriors(f0_hz: Floats) -> Floats:
    """Return 61 posteriors `[T, 61]` of F0 in Hz `[T]` (0 where unvoiced): one-hot semitones, blurred by half a semitone."""
    voiced = f0_hz > 0
    semitone = 12.0 * np.log2(np.where(voiced, f0_hz, LOWEST_HZ) / LOWEST_HZ)
    bins = np.exp(-0.5 * ((np.arange(SEMITONES) - semitone[:, None]) / _WIDTH_SEMITONES) ** 2)
    bins = np.where(bins < 1e-3, 0.0, bins)
    bins *= voiced[:, None] / bins.sum(axis=1, keepdims=True)
    return np.asarray(bins)


def bin_names() -> tuple[str, ...]:
    """Return the names of the semitones, `A1` to `A6`, and `voicing`."""
    return (*(f"{_NAMES[i % 12]}{1 + (i + 9) // 12}" for i in range(SEMITONES)), "voicing")


def build() -> AcousticExpert:
    """Return the expert `f0_bins`."""
    spec = acoustic_spec(
        "f0_bins",
        "pitch",
        "pitch_bins",
        version="1",
        source="Autocorrelation F0 (Boersma 1993; refinement as YIN 2002), blurred one-hot semitones (as CREPE 2018)",
        dim_names=bin_names(),
    )
    return AcousticExpert(spec, f0_bins)
