"""Input of the classifiers: what happens within a second around each frame, 12.5 frames a second, frame t centred on sample 1280 t."""

from __future__ import annotations

from functools import cache

import numpy as np

from coat_core.experts.acoustic.f0 import track_pitch
from coat_core.experts.acoustic.framing import HOP, Floats, decibels, mel_filters, power_spectrum

STEP = 4
"""Frames of `framing` (50 Hz) per output frame."""
CONTEXT_HOP = HOP * STEP
"""Samples per output frame: 1280 (80 ms)."""
_HALF = 24
"""Frames on each side of the centre: 0.48 s."""
_WINDOW = 2 * _HALF + 1
_BANDS = 40
_COEFFICIENTS = 20
_SHAPES = 10
"""Cosines over time for each coefficient: changes of up to about 5 Hz."""
_PITCH_SHAPES = 6
_GROUPS = 8
_RANGE_DB = 60.0
_FAINT_DB = -50.0
"""Levels are relative to the loudest band of the clip, but not to less than this, so that silence stays silence."""
_UNVOICED_OCTAVES = 2.0
"""F0 of a clip without voiced frames, octaves above 27.5 Hz: 110 Hz."""
CONTEXT_DIM = _COEFFICIENTS * _SHAPES + 2 * _GROUPS + 4 * _PITCH_SHAPES + _COEFFICIENTS + 1


def frame_context(waveform: Floats) -> Floats:
    """Return the context `[ceil(N / 1280), 261]` of each frame of a waveform `[N]` at 16 kHz.

    Except for faint clips it does not depend on the level.
    The dimensions: 20 cepstral coefficients × 10 cosines over the window; deviation and mean change of 8 groups of mel bands in the
    window; F0, voicing, harmonic share and level × 6 cosines; the clip's mean coefficients and its median F0.
    """
    bands = decibels(power_spectrum(waveform) @ mel_filters(_BANDS).T)
    bands = np.maximum(bands - max(float(bands.max()), _FAINT_DB), -_RANGE_DB)
    coefficients = bands @ _cosines(_BANDS, _COEFFICIENTS)
    f0, voicing, harmonic, median = _pitch(waveform)
    level = 10.0 * np.log10((10.0 ** (bands / 10.0)).mean(axis=1))
    groups = bands.reshape(len(bands), _GROUPS, -1).mean(axis=2)
    change = np.abs(np.diff(groups, axis=0, prepend=groups[:1]))
    tracks = np.stack([f0, voicing, harmonic, level], axis=1)
    active = level > level.max() - 30.0
    clip = np.append(coefficients[active].mean(axis=0), median)
    windows = _windows(groups)
    return np.concatenate(
        [
            _shapes(coefficients, _SHAPES),
            windows.std(axis=2),
            _windows(change).mean(axis=2),
            _shapes(tracks, _PITCH_SHAPES),
            np.broadcast_to(clip, (len(windows), len(clip))),
        ],
        axis=1,
    )


def _pitch(waveform: Floats) -> tuple[Floats, Floats, Floats, float]:
    """Return F0 in octaves above 27.5 Hz (interpolated where unvoiced), voicing, harmonic share `[T]` and the median F0."""
    track = track_pitch(waveform)
    voiced = np.flatnonzero(track.f0_hz > 0)
    if len(voiced) == 0:
        return np.full(len(track.f0_hz), _UNVOICED_OCTAVES), track.voicing, track.harmonicity, _UNVOICED_OCTAVES
    octaves = np.log2(track.f0_hz[voiced] / 27.5)
    return np.interp(np.arange(len(track.f0_hz)), voiced, octaves), track.voicing, track.harmonicity, float(np.median(octaves))


def _windows(tracks: Floats) -> Floats:
    """Return the windows `[T', d, 49]` around every fourth frame of tracks `[T, d]`; the edge frames are repeated."""
    padded = np.pad(tracks, ((_HALF, _HALF), (0, 0)), mode="edge")
    return np.lib.stride_tricks.sliding_window_view(padded, _WINDOW, axis=0)[::STEP]


def _shapes(tracks: Floats, count: int) -> Floats:
    """Return the first `count` cosine coefficients `[T', d · count]` of each track's tapered window."""
    taper = np.sin(np.pi * (np.arange(_WINDOW) + 0.5) / _WINDOW)
    found = _windows(tracks) @ (taper[:, None] * _cosines(_WINDOW, count))
    return np.asarray(found.reshape(len(found), -1))


@cache
def _cosines(size: int, count: int) -> Floats:
    """Return the orthonormal basis `[size, count]` of the discrete cosine transform (type II)."""
    order, place = np.arange(count)[None, :], np.arange(size)[:, None]
    basis = np.cos(np.pi * order * (place + 0.5) / size) * np.sqrt(2.0 / size)
    basis[:, 0] /= np.sqrt(2.0)
    return np.asarray(basis)
