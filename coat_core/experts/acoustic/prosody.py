"""Affect expert: prosody, that is loudness, pitch, voice quality and their rates of change."""

from __future__ import annotations

import numpy as np

from coat_core.experts.acoustic.f0 import PitchTrack, track_pitch
from coat_core.experts.acoustic.framing import (
    FRAME_RATE_HZ,
    POWER_FLOOR,
    AcousticExpert,
    Floats,
    acoustic_spec,
    bin_frequencies_hz,
    decibels,
    hann,
    mel_filters,
    power_spectrum,
)

REFERENCE_HZ = 27.5
"""Semitones are relative to A0, as in eGeMAPS."""
_UNVOICED_SEMITONES = 24.0
"""F0 of a clip without voiced frames: 110 Hz, a neutral value among voices."""
_MODULATION_FRAMES = 64
_LOCAL_FRAMES = 25

DIM_NAMES = (
    "loudness (dB)",
    "loudness re clip (dB)",
    "loudness spread 0.5 s (dB)",
    "F0 (semitones)",
    "F0 re clip (semitones)",
    "F0 change (semitones/s)",
    "F0 spread 0.5 s (semitones)",
    "voicing",
    "HNR (dB)",
    "slope 0-500 Hz (dB/kHz)",
    "slope 500-1500 Hz (dB/kHz)",
    "alpha ratio (dB)",
    "Hammarberg index (dB)",
    "modulation rate (Hz)",
    "modulation 2-8 Hz (share)",
    "pulses per second",
)


def prosody(waveform: Floats) -> Floats:
    """Return prosodic descriptors `[T, 16]`, named by `DIM_NAMES`."""
    power = power_spectrum(waveform)
    track = track_pitch(waveform)
    specific = (power @ mel_filters(26).T + POWER_FLOOR) ** 0.3
    loudness = 10.0 * np.log10(specific.sum(axis=1)) / 0.3
    active = loudness > loudness.max() - 30.0
    relative = loudness - loudness[active].mean()
    return np.stack(
        [
            loudness,
            relative,
            _spread(np.maximum(relative, -30.0)),
            *_melody(track),
            track.voicing,
            _harmonics_to_noise(track),
            *_voice_quality(power),
            *_rhythm(specific.sum(axis=1)),
        ],
        axis=1,
    )


def _spread(values: Floats) -> Floats:
    """Return the standard deviation `[T]` over half a second around each frame."""
    from scipy.ndimage import uniform_filter1d

    mean = uniform_filter1d(values, _LOCAL_FRAMES, mode="nearest")
    return np.asarray(np.sqrt(np.maximum(uniform_filter1d(values**2, _LOCAL_FRAMES, mode="nearest") - mean**2, 0.0)))


def _melody(track: PitchTrack) -> list[Floats]:
    """Return F0, F0 re the clip's median, its change and its spread; F0 is interpolated linearly where the clip is unvoiced."""
    from scipy.signal import savgol_filter

    voiced = np.flatnonzero(track.f0_hz > 0)
    if len(voiced) == 0:
        zeros = np.zeros(len(track.f0_hz))
        return [zeros + _UNVOICED_SEMITONES, zeros, zeros, zeros]
    known = 12.0 * np.log2(track.f0_hz[voiced] / REFERENCE_HZ)
    semitones = np.interp(np.arange(len(track.f0_hz)), voiced, known)
    change = savgol_filter(semitones, 5, polyorder=1, deriv=1, mode="nearest") * FRAME_RATE_HZ
    return [semitones, semitones - np.median(known), np.clip(change, -100.0, 100.0), _spread(semitones)]


def _harmonics_to_noise(track: PitchTrack) -> Floats:
    """Return HNR in dB `[T]` from the autocorrelation's height (Boersma 1993), limited to -10 to 40 dB."""
    share = np.clip(track.harmonicity, 1e-4, 1.0 - 1e-4)
    return np.asarray(np.clip(10.0 * np.log10(share / (1.0 - share)), -10.0, 40.0))


def _voice_quality(power: Floats) -> list[Floats]:
    """Return spectral slopes 0-500 and 500-1500 Hz (dB/kHz), alpha ratio and Hammarberg index (dB)."""
    hz = bin_frequencies_hz()
    logs = decibels(power + POWER_FLOOR)

    def slope(low: float, high: float) -> Floats:
        inside = (hz >= low) & (hz <= high)
        khz = hz[inside] / 1000.0 - hz[inside].mean() / 1000.0
        return np.asarray(logs[:, inside] @ khz / (khz @ khz))

    def band(low: float, high: float) -> Floats:
        return power[:, (hz >= low) & (hz < high)] + POWER_FLOOR

    alpha = decibels(band(50, 1000).sum(axis=1)) - decibels(band(1000, 5000).sum(axis=1))
    hammarberg = decibels(band(0, 2000).max(axis=1)) - decibels(band(2000, 5000).max(axis=1))
    return [slope(0, 500), slope(500, 1500), alpha, hammarberg]


def _rhythm(loudness: Floats) -> list[Floats]:
    """Return rate (Hz) and 2-8 Hz share of loudness modulation over 1.3 s, and loudness peaks per second over 1 s (pseudo-syllables)."""
    from scipy.fft import rfft
    from scipy.ndimage import gaussian_filter1d, uniform_filter1d
    from scipy.signal import find_peaks

    scaled = loudness / loudness.max()
    padded = np.pad(scaled, (_MODULATION_FRAMES // 2, _MODULATION_FRAMES), mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, _MODULATION_FRAMES)[: len(loudness)]
    spectrum = np.abs(rfft((windows - windows.mean(axis=1, keepdims=True)) * hann(_MODULATION_FRAMES), axis=1)) ** 2
    hz = np.arange(spectrum.shape[1]) * FRAME_RATE_HZ / _MODULATION_FRAMES
    modulation = (hz >= 1.0) & (hz <= 16.0)
    total = spectrum[:, modulation].sum(axis=1) + 1e-3
    rate = spectrum[:, modulation] @ hz[modulation] / total
    syllabic = spectrum[:, (hz >= 2.0) & (hz <= 8.0)].sum(axis=1) / total
    peaks = find_peaks(np.concatenate([[0.0], gaussian_filter1d(scaled, 2.0, mode="nearest"), [0.0]]), height=0.3, prominence=0.05)[0] - 1
    pulses = np.zeros(len(loudness))
    pulses[peaks] = 1.0
    return [rate, syllabic, uniform_filter1d(pulses, 51, mode="constant") * FRAME_RATE_HZ]


def build() -> AcousticExpert:
    """Return the expert `prosody`."""
    spec = acoustic_spec(
        "prosody",
        "affect",
        "regression",
        version="1",
        source="The parameter idea of eGeMAPS (Eyben et al. 2016), written anew; F0 and HNR after Boersma 1993",
        dim_names=DIM_NAMES,
    )
    return AcousticExpert(spec, prosody)
