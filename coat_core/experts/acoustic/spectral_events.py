"""Events expert: descriptors of each frame's spectrum, its onsets and the number of events so far."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from coat_core.experts.acoustic.framing import (
    FFT_SIZE,
    FRAME_RATE_HZ,
    POWER_FLOOR,
    SAMPLE_RATE_HZ,
    AcousticExpert,
    Floats,
    acoustic_spec,
    bin_frequencies_hz,
    decibels,
    frame,
    mel_filters,
    power_spectrum,
)

BAND_EDGES_HZ = (50, 150, 300, 600, 1200, 2400, 4800, 7600)
_ONSET_BANDS = 24
_EVENT_GAP_FRAMES = 7
"""Minimum distance between two events: 140 ms."""

DIM_NAMES = (
    *(f"band {low}-{high} Hz (dB)" for low, high in pairwise(BAND_EDGES_HZ)),
    "level (dB)",
    "activity",
    "onset",
    "onset low",
    "onset high",
    "offset",
    "centroid (octaves re 1 kHz)",
    "bandwidth (octaves)",
    "rolloff 85 % (octaves re 1 kHz)",
    "flatness (dB)",
    "crest (dB)",
    "tilt (dB/octave)",
    "zero crossings (kHz)",
    "events per second",
    "since event (s)",
    "events so far",
    "level change (dB/100 ms)",
    "level spread 0.5 s (dB)",
)


def spectral_events(waveform: Floats) -> Floats:
    """Return spectral and temporal descriptors `[T, 25]`, named by `DIM_NAMES`."""
    power = power_spectrum(waveform)
    hz = bin_frequencies_hz()
    bands = [decibels(power[:, (hz >= low) & (hz < high)].sum(axis=1)) for low, high in pairwise(BAND_EDGES_HZ)]
    level = decibels(power.sum(axis=1))
    activity = 1.0 / (1.0 + np.exp(-(level - max(float(np.quantile(level, 0.95)) - 20.0, -60.0)) / 3.0))
    loudness = _loudness(power)
    return np.stack(
        [
            *bands,
            level,
            activity,
            *_onsets(loudness),
            *_shape(power[:, 2:], hz[2:]),
            _zero_crossings(waveform),
            *_events(loudness, activity),
            *_motion(level),
        ],
        axis=1,
    )


def _shape(power: Floats, hz: Floats) -> list[Floats]:
    """Return centroid, bandwidth, rolloff (octaves), flatness and crest (dB), tilt (dB/octave); silence counts as white noise."""
    power = power + POWER_FLOOR
    share = power / power.sum(axis=1, keepdims=True)
    octaves = np.log2(hz / 1000.0)
    centroid = share @ octaves
    bandwidth = np.sqrt(np.maximum(share @ octaves**2 - centroid**2, 0.0))
    rolloff = octaves[(np.cumsum(share, axis=1) < 0.85).sum(axis=1).clip(max=len(hz) - 1)]
    logs = 10.0 * np.log10(power)
    mean = 10.0 * np.log10(power.mean(axis=1))
    flatness, crest = logs.mean(axis=1) - mean, logs.max(axis=1) - mean
    centred = octaves - octaves.mean()
    tilt = logs @ centred / (centred @ centred)
    return [centroid, bandwidth, rolloff, flatness, crest, tilt]


def _zero_crossings(waveform: Floats) -> Floats:
    """Return thousands of sign changes a second `[T]`, relative to the frame's mean; levels below -70 dB are ignored."""
    frames = frame(waveform, FFT_SIZE)
    signs = frames - frames.mean(axis=1, keepdims=True) > 10 ** (-70 / 20)
    return np.asarray((signs[:, 1:] != signs[:, :-1]).sum(axis=1) * (SAMPLE_RATE_HZ / FFT_SIZE / 1000.0))


def _loudness(power: Floats) -> Floats:
    """Return specific loudness `[T, 24]`: mel band power raised to 0.3, as a share of the clip's loudest frame."""
    specific = (power @ mel_filters(_ONSET_BANDS).T + POWER_FLOOR) ** 0.3
    return np.asarray(specific / specific.sum(axis=1).max())


def _rise(loudness: Floats) -> Floats:
    """Return the increase `[T, bands]` relative to the softer of the last two frames."""
    before = np.concatenate([np.full((2, loudness.shape[1]), POWER_FLOOR**0.3 * 0.1), loudness])
    return np.asarray(loudness - np.minimum(before[1:-1], before[:-2]))


def _onsets(loudness: Floats) -> list[Floats]:
    """Return onset strength of all, low and high bands, and offset strength."""
    rise = np.maximum(_rise(loudness), 0.0)
    fall = np.maximum(_rise(loudness[::-1]), 0.0)[::-1]
    third = _ONSET_BANDS // 3
    return [rise.sum(axis=1), rise[:, :third].sum(axis=1), rise[:, -third:].sum(axis=1), fall.sum(axis=1)]


def _events(loudness: Floats, activity: Floats) -> list[Floats]:
    """Return events per second, seconds since the last event began (at most 2), number of events so far (at most 30)."""
    from scipy.ndimage import grey_closing, uniform_filter1d
    from scipy.signal import find_peaks

    # Fill gaps up to 120 ms in each band: a rattle is one event, two knocks are two.
    strength = np.maximum(_rise(grey_closing(loudness, size=(_EVENT_GAP_FRAMES, 1), mode="nearest")), 0.0).sum(axis=1)
    threshold = max(0.15, 0.35 * float(strength.max()))
    padded = np.concatenate([[0.0], strength, [0.0]])
    peaks = find_peaks(padded, height=threshold, prominence=threshold / 2, distance=_EVENT_GAP_FRAMES)[0] - 1
    # An onset is an event only if the level then comes within 20 dB of the clip's loud parts; the onset of hiss is no event.
    frames = len(strength)
    audible = np.stack([np.append(activity[lag:], np.zeros(min(lag, frames))) for lag in range(4)]).max(axis=0) > 0.5
    starts = np.zeros(frames)
    starts[peaks[audible[peaks]]] = 1.0
    last = np.maximum.accumulate(np.where(starts > 0, np.arange(frames), -1))
    since = np.where(last < 0, 2.0, np.minimum((np.arange(frames) - last) / FRAME_RATE_HZ, 2.0))
    rate = uniform_filter1d(starts, 51, mode="constant") * FRAME_RATE_HZ
    return [rate, since, np.minimum(np.cumsum(starts), 30.0)]


def _motion(level: Floats) -> list[Floats]:
    """Return the level change over the last 100 ms and the level spread over half a second."""
    from scipy.ndimage import uniform_filter1d

    before = np.concatenate([np.full(5, level[0]), level])[: len(level)]
    mean = uniform_filter1d(level, 25, mode="nearest")
    return [level - before, np.asarray(np.sqrt(np.maximum(uniform_filter1d(level**2, 25, mode="nearest") - mean**2, 0.0)))]


def build() -> AcousticExpert:
    """Return the expert `spectral_events`."""
    spec = acoustic_spec(
        "spectral_events",
        "events",
        "regression",
        version="1",
        source="Spectral and temporal descriptors (Peeters 2004, CUIDADO); no classifier, no labels",
        dim_names=DIM_NAMES,
    )
    return AcousticExpert(spec, spectral_events)
