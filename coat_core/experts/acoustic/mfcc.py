"""Speech expert: mel-frequency cepstral coefficients with first and second differences, normalised over the clip."""

from __future__ import annotations

import numpy as np

from coat_core.experts.acoustic.framing import AcousticExpert, Floats, acoustic_spec, decibels, mel_filters, power_spectrum

BANDS = 40
COEFFICIENTS = 13
DYNAMIC_RANGE_DB = 60.0
"""Bands are clipped at this level below the clip's loudest band, so that pauses do not depend on the background noise."""
SMALLEST_DEVIATION = 1.0
"""dB; keeps a silent or stationary clip at zero instead of amplifying its rounding errors."""


def mfcc(waveform: Floats) -> Floats:
    """Return 13 cepstral coefficients with first and second differences `[T, 39]`, each of mean 0 and deviation about 1 over the clip."""
    from scipy.fft import dct
    from scipy.signal import savgol_filter

    bands = decibels(power_spectrum(waveform) @ mel_filters(BANDS).T)
    bands = np.maximum(bands, bands.max() - DYNAMIC_RANGE_DB)
    static = dct(bands, type=2, axis=1, norm="ortho")[:, :COEFFICIENTS]
    # Regression over five frames (HTK's deltawindow 2). The edge frames are repeated, so that a clip of one frame has differences.
    first = savgol_filter(static, 5, polyorder=1, deriv=1, axis=0, mode="nearest")
    second = savgol_filter(first, 5, polyorder=1, deriv=1, axis=0, mode="nearest")
    features = np.concatenate([static, first, second], axis=1)
    return np.asarray((features - features.mean(axis=0)) / np.maximum(features.std(axis=0), SMALLEST_DEVIATION))


def build() -> AcousticExpert:
    """Return the expert `mfcc`."""
    names = tuple(f"{prefix}c{i}" for prefix in ("", "Δ", "ΔΔ") for i in range(COEFFICIENTS))
    spec = acoustic_spec(
        "mfcc",
        "speech",
        "representation",
        version="1",
        source="MFCC (Davis and Mermelstein 1980) with Δ and ΔΔ (Furui 1986), mean and variance normalised per clip",
        dim_names=names,
    )
    return AcousticExpert(spec, mfcc)
