"""The read-out of one clip as JSON for the interactive plot: what `report.figures` draws, with the same ranges, ticks and notes."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coat_core.report.figures import (
    CURVES,
    bands_note,
    choose_dims,
    curve_name,
    curve_range,
    envelope,
    is_spectrogram,
    level_range,
    mel_ticks,
    pitch_line,
    pitch_note,
    pitch_range,
    pitch_ticks,
)
from coat_core.report.read_out import Frames, ReadOut, Track

MAX_COLUMNS = 1200
"""Most columns of a picture, as many as a wide screen shows."""
_TITLES = {"events": "Events", "affect": "Affect"}


def plot_of(read_out: ReadOut) -> dict[str, Any]:
    """Return the plot of a read-out: waveform, spectrograms, pitch and curves; parts without an expert are null or missing."""
    low, high = envelope(read_out.waveform)
    tracks = read_out.tracks
    spectrogram, pitch = tracks.get("reconstruction"), tracks.get("pitch")
    return {
        "duration_s": read_out.duration_s,
        "waveform": {"low": _rounded(low), "high": _rounded(high)},
        "spectrogram": _spectrogram(spectrogram) if spectrogram is not None and is_spectrogram(spectrogram) else None,
        "pitch": _pitch(pitch) if pitch is not None and pitch.spec.target == "pitch_bins" else None,
        "curves": [curve for kind in _TITLES if kind in tracks for curve in _curves(tracks[kind], kind)],
    }


def _spectrogram(track: Track) -> dict[str, Any]:
    low, high = level_range(track)
    return {
        "measured": _image(track.measured, low, high), "predicted": _image(track.predicted, low, high),
        "ticks": mel_ticks(track.spec.dim_names), "note": bands_note(track),
    }  # fmt: skip


def _pitch(track: Track) -> dict[str, Any]:
    measured, predicted = pitch_line(track.measured), pitch_line(track.predicted)
    low, high = pitch_range(measured, predicted, track.spec.dim - 1)
    return {
        "low": low, "high": high, "ticks": pitch_ticks(track.spec.dim_names, low, high), "note": pitch_note(track),
        "measured": _series(track.measured_times, measured), "predicted": _series(track.predicted_times, predicted),
    }  # fmt: skip


def _curves(track: Track, kind: str) -> list[dict[str, Any]]:
    found = []
    for dim in choose_dims(track, CURVES.get(kind, ())):
        low, high = curve_range(track, dim)
        r = track.correlation(dim)
        found.append({
            "title": _TITLES[kind], "name": curve_name(track, dim), "low": low, "high": high, "r": None if r is None else round(r, 2),
            "measured": _series(track.measured_times, track.measured[:, dim]),
            "predicted": _series(track.predicted_times, track.predicted[:, dim]),
        })  # fmt: skip
    return found


def _series(times: NDArray[np.float64], values: Frames) -> dict[str, Any]:
    """Return values at even times; null where there is none."""
    step = float(times[1] - times[0]) if len(times) > 1 else 0.0
    return {"start": float(times[0]), "step": step, "values": _rounded(values)}


def _rounded(values: Sequence[float] | Frames) -> list[float | None]:
    return [float(f"{value:.4g}") if np.isfinite(value) else None for value in values]


def _image(frames: Frames, low: float, high: float) -> dict[str, Any]:
    """Return frames `[T, d]` as rows of bytes, the highest dim first: 1 to 255 from `low` to `high`, 0 where there is no value."""
    parts = np.array_split(frames, min(MAX_COLUMNS, len(frames)))
    columns = np.stack(
        [part[np.isfinite(part).all(axis=1)].mean(axis=0) if _any_valid(part) else np.full(part.shape[1], np.nan) for part in parts]
    )
    level = np.clip((columns - low) / max(high - low, 1e-9), 0.0, 1.0)
    pixels = np.where(np.isfinite(level), 1 + np.rint(254 * np.nan_to_num(level)), 0).astype(np.uint8).T[::-1]
    return {
        "rows": pixels.shape[0],
        "columns": pixels.shape[1],
        "pixels": base64.b64encode(np.ascontiguousarray(pixels).tobytes()).decode(),
    }


def _any_valid(part: Frames) -> bool:
    return bool(np.isfinite(part).all(axis=1).any())
