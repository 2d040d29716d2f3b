"""Pitch expert: fundamental frequency (F0) as semitone posteriors and a voicing probability.

F0 comes from the normalised autocorrelation and the best path through its candidates.

Boersma, "Accurate short-term analysis of the fundamental frequency and the harmonics-to-noise ratio of a sampled sound" (1993);
parabolic refinement as in YIN (de Cheveigné and Kawahara 2002). Frames are transformed in blocks.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

from coat_core.experts.acoustic.framing import HOP, SAMPLE_RATE_HZ, AcousticExpert, Floats, acoustic_spec, frame_count, hann

LOWEST_HZ = 55.0
HIGHEST_HZ = 1760.0
SEMITONES = 61
"""A1 (55 Hz) to A6 (1760 Hz)."""
_WIDTH_SEMITONES = 0.5
_NOTES = ("A", "A#", "B", "C", "C#", "D", "D#", "E", "F", "F#", "G", "G#")
_WINDOW = 1024
"""64 ms: three and a half periods of the lowest pitch."""
_FFT = 2048
_OVERSAMPLING = 2
_CANDIDATES = 6
_BLOCK = 32
"""Frames in one transform: enough to amortise the call, few enough to stay in the cache and to reuse the same memory."""
# The path's costs are Boersma's defaults. His silence threshold is relative to the loudest frame; `_SILENCE_PEAK` adds an absolute one.
_OCTAVE_COST = 0.01
_VOICING_THRESHOLD = 0.45
_SILENCE_THRESHOLD = 0.03
_SILENCE_PEAK = 10 ** (-65 / 20)
_JUMP_COST = 0.35
_VOICING_COST = 0.14


@dataclass(frozen=True)
class PitchTrack:
    """F0 of one clip, 50 frames a second."""

    f0_hz: Floats
    """`[T]`, 0 where unvoiced."""
    voicing: Floats
    """`[T]` in [0, 1]; above one half exactly where F0 is not 0."""
    harmonicity: Floats
    """`[T]` in [0, 1): height of the best autocorrelation peak, the harmonic share of the power."""


def track_pitch(waveform: Floats) -> PitchTrack:
    """Return the pitch of a waveform `[N]` between 55 and 1760 Hz."""
    frames = _frames_within(waveform)
    blocks = [_candidates(_correlation(frames[start : start + _BLOCK])) for start in range(0, len(frames), _BLOCK)]
    frequency, height = (np.concatenate(part) for part in zip(*blocks, strict=True))
    loudness = np.abs(frames - frames.mean(axis=1, keepdims=True)).max(axis=1)
    relative = loudness / max(float(loudness.max()), _SILENCE_PEAK)
    unvoiced = _VOICING_THRESHOLD + np.maximum(0.0, 2.0 - relative * (1.0 + _VOICING_THRESHOLD) / _SILENCE_THRESHOLD)
    unvoiced = np.where(loudness < _SILENCE_PEAK, 3.0, unvoiced)
    voiced = np.where(frequency > 0, height + _OCTAVE_COST * np.log2(np.maximum(frequency, LOWEST_HZ) / LOWEST_HZ), -np.inf)
    path = _best_path(np.concatenate([unvoiced[:, None], voiced], axis=1), np.concatenate([np.zeros((len(frames), 1)), frequency], axis=1))
    rows = np.arange(len(frames))
    f0 = np.where(path > 0, frequency[rows, np.maximum(path - 1, 0)], 0.0)
    best = np.where(path > 0, height[rows, np.maximum(path - 1, 0)], height.max(axis=1))
    probability = 1.0 / (1.0 + np.exp(-np.clip((best - unvoiced) / 0.1, -30.0, 30.0)))
    voicing = np.where(path > 0, np.maximum(probability, 0.55), np.minimum(probability, 0.45))
    return PitchTrack(f0, voicing, np.where(loudness < _SILENCE_PEAK, 0.0, best))


def _frames_within(waveform: Floats) -> Floats:
    """Return centred frames `[T, 1024]`; at both ends they are shifted inwards, because a half-empty window contains too few periods."""
    padded = np.concatenate([waveform, np.zeros(max(0, _WINDOW - len(waveform)))])
    starts = np.clip(np.arange(frame_count(len(waveform))) * HOP - _WINDOW // 2, 0, len(padded) - _WINDOW)
    return np.lib.stride_tricks.sliding_window_view(padded, _WINDOW)[starts]


@cache
def _window_correlation() -> Floats:
    from scipy.fft import irfft, rfft

    correlation = irfft(_padded(np.abs(rfft(hann(_WINDOW), _FFT)) ** 2), _FFT * _OVERSAMPLING)
    return np.asarray(correlation[: _lags()] / correlation[0])


def _lags() -> int:
    return int(SAMPLE_RATE_HZ * _OVERSAMPLING / LOWEST_HZ) + 3


def _padded(power: Floats) -> Floats:
    """Append zeros above the Nyquist frequency: they double the sampling rate of the autocorrelation, for high pitches."""
    padded = np.zeros((*power.shape[:-1], _FFT * _OVERSAMPLING // 2 + 1))
    padded[..., : power.shape[-1]] = power
    return padded


def _correlation(frames: Floats) -> Floats:
    """Return the autocorrelation `[T, lags]` at 32 kHz, divided by that of the window and scaled to 1 at lag 0."""
    from scipy.fft import irfft, rfft

    spectrum = rfft((frames - frames.mean(axis=1, keepdims=True)) * hann(_WINDOW), _FFT, axis=1)
    correlation = irfft(_padded(spectrum.real**2 + spectrum.imag**2), _FFT * _OVERSAMPLING, axis=1)[:, : _lags()]
    return np.asarray(correlation / np.maximum(correlation[:, :1], 1e-12) / _window_correlation())


def _candidates(correlation: Floats) -> tuple[Floats, Floats]:
    """Return frequency in Hz and height `[T, 6]` of the highest peaks; 0 where there are fewer."""
    shortest = int(SAMPLE_RATE_HZ * _OVERSAMPLING / HIGHEST_HZ) - 1
    left, middle, right = correlation[:, shortest - 1 : -2], correlation[:, shortest:-1], correlation[:, shortest + 1 :]
    # Long lags get a small penalty here, as on the path: an exactly periodic tone has equal peaks at every multiple of its period.
    lags = np.arange(shortest, shortest + middle.shape[1])
    score = np.where((middle > left) & (middle >= right) & (middle > 0.2), middle - _OCTAVE_COST * np.log2(lags), -1.0)
    columns = np.argpartition(-score, _CANDIDATES, axis=1)[:, :_CANDIDATES]
    columns.sort(axis=1)
    rows = np.arange(len(correlation))[:, None]
    found = score[rows, columns] > -1.0
    a, b, c = left[rows, columns], middle[rows, columns], right[rows, columns]
    curvature = np.where(found, a - 2.0 * b + c, -1.0)
    shift = np.where(found, 0.5 * (a - c) / np.minimum(curvature, -1e-12), 0.0)
    frequency = SAMPLE_RATE_HZ * _OVERSAMPLING / (lags[columns] + shift)
    height = np.clip(b - 0.25 * (a - c) * shift, 0.0, 0.9999)
    found &= (frequency >= LOWEST_HZ) & (frequency <= HIGHEST_HZ)
    return np.where(found, frequency, 0.0), np.where(found, height, 0.0)


def _best_path(strength: Floats, frequency: Floats) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Return the candidate `[T]` of each frame (0: unvoiced) on the path with the greatest strength minus transition costs (Viterbi)."""
    voiced = frequency > 0
    octaves = np.log2(np.where(voiced, frequency, 1.0))
    both = voiced[1:, None, :] & voiced[:-1, :, None]
    differ = voiced[1:, None, :] != voiced[:-1, :, None]
    cost = np.where(both, _JUMP_COST * np.abs(octaves[1:, None, :] - octaves[:-1, :, None]), np.where(differ, _VOICING_COST, 0.0))
    cost[:, 0, 0] = 0.0
    total, back = strength[0], np.zeros(strength.shape, dtype=np.int64)
    columns = np.arange(strength.shape[1])
    for t in range(1, len(strength)):
        arrivals = total[:, None] - cost[t - 1]
        back[t] = arrivals.argmax(axis=0)
        total = arrivals[back[t], columns] + strength[t]
    path = np.zeros(len(strength), dtype=np.int64)
    path[-1] = total.argmax()
    for t in range(len(strength) - 1, 0, -1):
        path[t - 1] = back[t, path[t]]
    return path


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
    return (*(f"{_NOTES[i % 12]}{1 + (i + 9) // 12}" for i in range(SEMITONES)), "voicing")


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
