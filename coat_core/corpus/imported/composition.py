"""Composition of recordings into one clip: trimming, levels, margins and gaps. Waveforms are float32 `[N]` at 16 kHz in [-1, 1]."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from coat_core.corpus.audio import SAMPLE_RATE_HZ
from coat_core.errors import CorpusError

Waveform = NDArray[np.float32]

_FRAME = SAMPLE_RATE_HZ // 50
_FADE = SAMPLE_RATE_HZ // 100
_LEAD_S, _TAIL_S = (0.05, 0.4), (0.05, 0.25)
_SHORTEST_S = 1.0
_MIN_LEVEL_DBFS = -45.0
"""Lowest RMS level of clips that keep their recorded level; softer clips are amplified to it."""
_NOISE_DBFS = -72.0
"""RMS level of the white noise added to the whole clip: gaps and margins are not digital silence."""
_PEAK = 0.95


@dataclass(frozen=True)
class Layout:
    """Parameters of a composition."""

    part_s: float | None = None
    """Longest duration of a part in seconds (its loudest segment is kept). None: limited only by the duration of the clip."""
    whole: bool = False
    """Whether parts must not be shortened, because words would be lost."""
    level_dbfs: float | None = None
    """RMS level of each part. None: the recorded level, which is a cue for the answer."""
    repeats: int = 0
    """If not 0, the steadiest burst of the single part is repeated this many times."""
    gap_s: tuple[float, float] = (0.25, 0.45)


def compose(parts: Sequence[Waveform], layout: Layout, rng: np.random.Generator, max_duration_s: float) -> Waveform:
    """Join recordings into one clip of at most `max_duration_s`, with random margins and gaps.

    Raises:
        CorpusError: parts that must not be shortened do not fit.
    """
    trimmed = [active(part) for part in parts]
    if layout.repeats:
        length = int(rng.uniform(0.3, 0.45) * SAMPLE_RATE_HZ)
        start, _ = steadiest(trimmed[0], length)
        trimmed = [trimmed[0][start : start + length]] * layout.repeats
    budget_s = (max_duration_s - _LEAD_S[1] - _TAIL_S[1] - layout.gap_s[1] * (len(trimmed) - 1)) / len(trimmed)
    if layout.whole:
        _check_fit(trimmed, budget_s * len(trimmed))
    else:
        longest = int(min(budget_s, layout.part_s or budget_s) * SAMPLE_RATE_HZ)
        trimmed = [loudest(part, longest) for part in trimmed]
    pieces = [_silence(rng.uniform(*_LEAD_S))]
    for index, part in enumerate(trimmed):
        if index:
            pieces.append(_silence(rng.uniform(*layout.gap_s)))
        faded = _fade(part)
        pieces.append(faded if layout.level_dbfs is None else faded * _gain(faded, layout.level_dbfs + rng.uniform(-1.5, 1.5)))
    missing_s = _SHORTEST_S - sum(piece.size for piece in pieces) / SAMPLE_RATE_HZ
    pieces.append(_silence(max(rng.uniform(*_TAIL_S), missing_s)))
    clip = np.concatenate(pieces)
    if layout.level_dbfs is None:
        clip = clip * np.maximum(_gain(clip, _MIN_LEVEL_DBFS), np.float32(1.0))
    noise = rng.standard_normal(clip.size).astype(np.float32) * np.float32(10 ** (_NOISE_DBFS / 20))
    return np.asarray(np.clip(clip + noise, -_PEAK, _PEAK), dtype=np.float32)


def active(waveform: Waveform, below_peak_db: float = 35.0, margin_s: float = 0.04) -> Waveform:
    """Return the segment from the first to the last 20 ms frame whose level is within `below_peak_db` of the loudest frame."""
    levels = _frame_rms(waveform)
    loud = np.flatnonzero(levels >= levels.max() * 10 ** (-below_peak_db / 20))
    margin = int(margin_s * SAMPLE_RATE_HZ)
    start = max(0, int(loud[0]) * _FRAME - margin)
    stop = min(waveform.size, (int(loud[-1]) + 1) * _FRAME + margin)
    return waveform[start:stop]


def loudest(waveform: Waveform, length: int) -> Waveform:
    """Return the segment of `length` samples with the most energy, or the whole waveform if it is shorter."""
    if waveform.size <= length:
        return waveform
    energy = np.concatenate([[0.0], np.cumsum(np.square(waveform, dtype=np.float64))])
    start = int(np.argmax(energy[length:] - energy[:-length]))
    return waveform[start : start + length]


def steadiest(waveform: Waveform, length: int) -> tuple[int, float]:
    """Return the start of the steadiest window of `length` samples: the one whose softest frame has the highest level.

    The second value is the level of that frame in dB relative to the loudest frame of the waveform (0 or less).
    """
    levels = _frame_rms(waveform)
    frames = min(max(1, length // _FRAME), levels.size)
    floors = np.lib.stride_tricks.sliding_window_view(levels, frames).min(axis=1)
    best = int(np.argmax(floors))
    return best * _FRAME, float(20 * np.log10(max(floors[best], 1e-9) / max(levels.max(), 1e-9)))


def _check_fit(parts: Sequence[Waveform], budget_s: float) -> None:
    total_s = sum(part.size for part in parts) / SAMPLE_RATE_HZ
    if total_s > budget_s:
        raise CorpusError(
            "spoken words do not fit into a clip",
            field="corpus.max_duration_s",
            value=f"{total_s:.2f} s of speech",
            allowed=f"at most {budget_s:.2f} s",
            next_step="raise corpus.max_duration_s, or correct the durations in the index",
        )


def _frame_rms(waveform: Waveform) -> NDArray[np.float64]:
    """Return the RMS of whole 20 ms frames `[F]`, F ≥ 1."""
    if waveform.size < _FRAME:
        waveform = np.pad(waveform, (0, _FRAME - waveform.size))
    frames = waveform[: waveform.size // _FRAME * _FRAME].reshape(-1, _FRAME).astype(np.float64)
    return np.asarray(np.sqrt(np.mean(np.square(frames), axis=1)))


def _gain(waveform: Waveform, rms_dbfs: float) -> np.float32:
    """Return the factor that scales a waveform to an RMS level without clipping its peak."""
    rms = float(np.sqrt(np.mean(np.square(waveform, dtype=np.float64))))
    peak = float(np.abs(waveform).max())
    return np.float32(min(10 ** (rms_dbfs / 20) / max(rms, 1e-9), _PEAK / max(peak, 1e-9)))


def _fade(waveform: Waveform) -> Waveform:
    """Return a copy with 10 ms ramps at both ends to avoid clicks."""
    length = min(_FADE, waveform.size // 2)
    ramp = np.linspace(0.0, 1.0, length, dtype=np.float32)
    faded = waveform.copy()
    faded[:length] *= ramp
    faded[waveform.size - length :] *= ramp[::-1]
    return faded


def _silence(duration_s: float) -> Waveform:
    return np.zeros(round(duration_s * SAMPLE_RATE_HZ), dtype=np.float32)
