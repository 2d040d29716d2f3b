"""The figure of one read-out: waveform and spectrograms on the left; pitch, events and affect on the right."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from coat_core.report.read_out import Frames, ReadOut, Track
from coat_core.report.style import (
    FAINT,
    INK,
    MEASURED,
    MEASURED_SOFT,
    MUTED,
    PAPER,
    PREDICTED,
    PREDICTED_SOFT,
    drawable,
    new_figure,
    save_png,
    sequential,
)
from coat_core.report.tables import name_of

CURVES = {
    "events": ("activity", "onset", "events so far", "centroid"),
    "affect": ("loudness re clip", "F0 (semitones)", "voicing", "modulation rate"),
}
"""The dims to draw, by the start of their names; if none matches, the dims that vary the most."""
MAX_CURVES = 4
VOICED = 0.5
"""Frames with at least this voicing are voiced."""


def draw_read_out(read_out: ReadOut, path: Path) -> None:
    """Draw one read-out to a PNG."""
    with new_figure(12.0, 7.4) as figure:
        _title(figure, read_out)
        grid = figure.add_gridspec(1, 2, left=0.055, right=0.955, top=0.8, bottom=0.075, wspace=0.25)
        left = grid[0].subgridspec(3, 1, height_ratios=[0.8, 2.6, 2.6], hspace=0.3)
        right = grid[1].subgridspec(3, 1, height_ratios=[2.3, 2.0, 2.0], hspace=0.3)
        _waveform(figure.add_subplot(left[0]), read_out)
        _spectrograms(figure.add_subplot(left[1]), figure.add_subplot(left[2]), read_out)
        _pitch(figure.add_subplot(right[0]), read_out)
        _curves(figure, right[1], read_out, "events", "Events")
        _curves(figure, right[2], read_out, "affect", "Affect")
        for axes in figure.axes:
            axes.set_xlim(0.0, read_out.duration_s)
            last = axes in (figure.axes[2], figure.axes[-1])
            axes.tick_params(labelbottom=last, bottom=last)
        for axes in (figure.axes[2], figure.axes[-1]):
            axes.set_xlabel("seconds", fontsize=8)
        save_png(figure, path)


def _title(figure: Any, read_out: ReadOut) -> None:
    example = read_out.example
    lines = textwrap.wrap(f"“{drawable(example.question)}”", 66)
    question = "\n".join(lines[:2]) + ("…" if len(lines) > 2 else "")
    figure.text(0.055, 0.972, question, fontsize=15, weight="bold", va="top", linespacing=1.25)
    verdict, colour = verdict_of(read_out)
    response = drawable(read_out.response if len(read_out.response) <= 60 else read_out.response[:57] + "…")
    line = [(f"{name_of(read_out.backbone)} answered ", MUTED, "normal"), (f"“{response}”", INK, "bold"), (f"   {verdict}", colour, "bold")]
    if example.answer and read_out.score != 1.0:
        line.append((f"   the answer is “{drawable(example.answer[:60])}”", MUTED, "normal"))
    place = 0.055
    for text, ink, weight in line:
        drawn = figure.text(place, 0.878, text, fontsize=11, color=ink, weight=weight, va="center")
        place += drawn.get_window_extent().width / figure.bbox.width
    figure.text(0.955, 0.958, source_of(read_out), fontsize=9, color=MUTED, ha="right", va="center")
    for y, ink, strong, weak in (
        (0.906, MEASURED, "expert", "measured on the audio"), (0.878, PREDICTED, "read-out", "predicted from the thinking block")
    ):  # fmt: skip
        weak_text = figure.text(0.955, y, f"  {weak}", fontsize=9, color=MUTED, ha="right", va="center")
        width = weak_text.get_window_extent().width / figure.bbox.width
        figure.text(0.955 - width, y, f"● {strong}", fontsize=9, color=ink, ha="right", va="center", weight="bold")


def source_of(read_out: ReadOut) -> str:
    """Return the trial, after the family of the question; a question without a known answer has no family."""
    return f"{read_out.example.family} · {read_out.trial}" if read_out.example.answer else read_out.trial


def verdict_of(read_out: ReadOut) -> tuple[str, str]:
    """Return the text and the colour of the score; no text if the right answer is unknown."""
    if not read_out.example.answer:
        return "", MUTED
    if read_out.score is None:
        return "unscored", MUTED
    if read_out.score in (0.0, 1.0):
        return ("right", "#2f7d4f") if read_out.score else ("wrong", "#a33a2c")
    return f"score {read_out.score:.2f}", MUTED


def _label(axes: Any, text: str, colour: str, note: str = "") -> None:
    axes.set_title(text, color=colour, pad=5)
    if note:
        axes.text(1.0, 1.0, note, transform=axes.transAxes, ha="right", va="bottom", fontsize=8, color=MUTED)


def _waveform(axes: Any, read_out: ReadOut) -> None:
    low, high = envelope(read_out.waveform)
    times = (np.arange(len(low)) + 0.5) * read_out.duration_s / len(low)
    axes.fill_between(times, low, high, color=MEASURED, linewidth=0)
    limit = max(float(np.abs(read_out.waveform).max()), 1e-3)
    axes.set_ylim(-1.05 * limit, 1.05 * limit)
    axes.set_yticks([])
    axes.spines[["left", "bottom"]].set_visible(False)
    axes.tick_params(bottom=False)
    _label(axes, "Waveform", MEASURED)


def envelope(waveform: Frames, count: int = 1200) -> tuple[list[float], list[float]]:
    """Return the minima and the maxima of at most `count` parts of a waveform `[N]`."""
    parts = np.array_split(waveform, min(count, len(waveform)))
    return [float(part.min()) for part in parts], [float(part.max()) for part in parts]


def _spectrograms(above: Any, below: Any, read_out: ReadOut) -> None:
    track = read_out.tracks.get("reconstruction")
    if track is None or not is_spectrogram(track):
        _empty(above, "Log-mel", MEASURED, "no log-mel expert")
        _empty(below, "Log-mel, read-out", PREDICTED, "no log-mel head")
        return
    low, high = level_range(track)
    image = {"origin": "lower", "aspect": "auto", "vmin": low, "vmax": high, "interpolation": "bilinear"}
    dims = track.spec.dim
    above.imshow(track.measured.T, extent=(0, read_out.duration_s, 0, dims), cmap=sequential(MEASURED_SOFT, MEASURED), **image)
    below.imshow(
        track.predicted.T, extent=(0, read_out.duration_s, 0, dims), cmap=sequential(PREDICTED_SOFT, PREDICTED, "#571405"), **image
    )
    ticks = mel_ticks(track.spec.dim_names)
    for axes in (above, below):
        axes.set_yticks([place for place, _ in ticks], [text for _, text in ticks])
    _label(above, "Spectrogram", MEASURED)
    _label(below, "Spectrogram, read-out", PREDICTED, bands_note(track))


def is_spectrogram(track: Track) -> bool:
    """Return whether the dims of a track are mel bands."""
    return track.spec.dim_names[0].startswith("mel")


def level_range(track: Track) -> tuple[float, float]:
    """Return the measured levels that get the first and the last colour."""
    low, high = np.nanquantile(track.measured, [0.05, 0.995])
    return float(low), float(high)


def bands_note(track: Track) -> str:
    """Return a note: the median over bands of the correlation over time."""
    each = [r for dim in range(track.spec.dim) if (r := track.correlation(dim)) is not None]
    return f"median r over bands {two_digits(float(np.median(each)))}" if each else ""


def mel_ticks(names: Sequence[str]) -> list[tuple[float, str]]:
    """Return positions and labels of round frequencies, for bands named by their centre ("mel 3 (187 Hz)")."""
    centres = np.asarray([float(name.split("(")[1].split()[0]) for name in names])
    ticks = [(hz, text) for hz, text in ((250, "250 Hz"), (500, "500"), (1000, "1 kHz"), (2000, "2"), (4000, "4")) if hz < centres[-1]]
    return [(float(np.interp(hz, centres, np.arange(len(names)) + 0.5)), text) for hz, text in ticks]


def _pitch(axes: Any, read_out: ReadOut) -> None:
    track = read_out.tracks.get("pitch")
    if track is None or track.spec.target != "pitch_bins":
        _empty(axes, "Pitch", MEASURED, "no pitch head")
        return
    bins = track.spec.dim - 1
    measured, predicted = pitch_line(track.measured), pitch_line(track.predicted)
    extent = (0, read_out.duration_s, -0.5, bins - 0.5)
    cloud = (track.predicted[:, :-1] * track.predicted[:, -1:]).T
    top = max(float(cloud.max()), 1e-6)
    colours = sequential("#fde9e1", PREDICTED_SOFT)
    axes.imshow(cloud, origin="lower", aspect="auto", extent=extent, cmap=colours, vmin=0, vmax=1.6 * top, interpolation="bilinear")
    axes.plot(track.measured_times, measured, color=MEASURED, linewidth=4.5, alpha=0.85)
    axes.plot(track.predicted_times, predicted, color=PAPER, linewidth=3.6)
    axes.plot(track.predicted_times, predicted, color=PREDICTED, linewidth=2.0, marker="o", markersize=3.0, markeredgewidth=0)
    low, high = pitch_range(measured, predicted, bins)
    axes.set_ylim(low, high)
    ticks = pitch_ticks(track.spec.dim_names, low, high)
    axes.set_yticks([place for place, _ in ticks], [text for _, text in ticks])
    axes.grid(axis="y", color=FAINT, linewidth=0.6)
    axes.set_axisbelow(True)
    _label(axes, "Pitch", INK, pitch_note(track))


def pitch_line(frames: Frames) -> Frames:
    """Return the pitch `[T]` of frames `[T, bins + 1]`, in bins: the mean bin around the most likely one; NaN in unvoiced frames."""
    posteriors, voicing = np.nan_to_num(frames[:, :-1]), np.nan_to_num(frames[:, -1])
    peak = posteriors.argmax(axis=1)
    near = np.abs(np.arange(posteriors.shape[1]) - peak[:, None]) <= 1
    weights = posteriors * near
    total = weights.sum(axis=1)
    line = (weights * np.arange(posteriors.shape[1])).sum(axis=1) / np.maximum(total, 1e-9)
    return np.asarray(np.where((voicing >= VOICED) & (total > 0), line, np.nan), dtype=np.float32)


def pitch_range(measured: Frames, predicted: Frames, bins: int) -> tuple[float, float]:
    """Return the range of an axis for two lines of pitch, in bins."""
    known = np.concatenate([measured[np.isfinite(measured)], predicted[np.isfinite(predicted)]])
    low, high = (known.min() - 5, known.max() + 5) if len(known) else (0, bins)
    if high - low < 16:
        low, high = (low + high) / 2 - 8, (low + high) / 2 + 8
    return float(max(low, -0.5)), float(min(high, bins - 0.5))


def pitch_ticks(names: Sequence[str], low: float, high: float) -> list[tuple[int, str]]:
    """Return the bins of A and D♯ in a range, with their names; the last name is that of voicing."""
    return [(i, name.replace("#", "♯")) for i, name in enumerate(names[:-1]) if name[:-1] in ("A", "D#") and low <= i <= high]


def pitch_note(track: Track) -> str:
    """Return a note: the share of voiced frames with a predicted pitch, and the share of those within a semitone."""
    places = np.clip((track.predicted_times * track.spec.native_rate_hz).astype(int), 0, len(track.measured) - 1)
    measured, predicted = pitch_line(track.measured)[places], pitch_line(track.predicted)
    voiced, both = np.isfinite(measured), np.isfinite(measured) & np.isfinite(predicted)
    if not voiced.any():
        return "no voiced frames"
    if not both.any():
        return "no pitch in the read-out"
    near = float((np.abs(measured - predicted)[both] <= 1.0).mean())
    return f"both voiced on {both.sum() / voiced.sum():.0%} of voiced frames, {near:.0%} of those within a semitone"


def _curves(figure: Any, place: Any, read_out: ReadOut, kind: str, title: str) -> None:
    track = read_out.tracks.get(kind)
    if track is None:
        _empty(figure.add_subplot(place), title, MEASURED, f"no {kind} head")
        return
    dims = choose_dims(track, CURVES.get(kind, ()))
    inner = place.subgridspec(len(dims), 1, hspace=0.25)
    for row, dim in enumerate(dims):
        axes = figure.add_subplot(inner[row])
        _curve(axes, track, dim)
        if row == 0:
            _label(axes, title, INK)
            axes.text(1.012, 1.12, "r", transform=axes.transAxes, fontsize=8, color=MUTED, style="italic")


def choose_dims(track: Track, starts: Sequence[str]) -> list[int]:
    """Return the dims to draw: those whose names start with `starts`, else those whose measured values vary the most."""
    names = track.spec.dim_names
    found = [next((i for i, name in enumerate(names) if name.startswith(start)), None) for start in starts]
    kept = [dim for dim in found if dim is not None]
    if kept:
        return kept[:MAX_CURVES]
    spread = np.nan_to_num(np.nanstd(track.measured, axis=0))
    return sorted(np.argsort(-spread, kind="stable")[:MAX_CURVES].tolist())


def _curve(axes: Any, track: Track, dim: int) -> None:
    measured, predicted = track.measured[:, dim], track.predicted[:, dim]
    low, high = curve_range(track, dim)
    axes.fill_between(track.measured_times, measured, low, color=MEASURED_SOFT, linewidth=0, alpha=0.65)
    axes.plot(track.measured_times, measured, color=MEASURED, linewidth=1.0)
    axes.plot(track.predicted_times, predicted, color=PREDICTED, linewidth=1.8)
    axes.set_ylim(low, high)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.text(-0.012, 0.5, curve_name(track, dim), transform=axes.transAxes, ha="right", va="center", fontsize=8, color=INK)
    correlation = track.correlation(dim)
    note = "" if correlation is None else two_digits(correlation)
    axes.text(1.012, 0.5, note, transform=axes.transAxes, ha="left", va="center", fontsize=8, color=MUTED)


def curve_range(track: Track, dim: int) -> tuple[float, float]:
    """Return the range of an axis for the measured and the predicted values of one dim."""
    both = np.concatenate([track.measured[np.isfinite(track.measured[:, dim]), dim], track.predicted[:, dim]])
    low, high = float(both.min()), float(both.max())
    margin = 0.12 * max(high - low, 1e-3)
    return low - margin, high + margin


def curve_name(track: Track, dim: int) -> str:
    """Return the short name of a dim."""
    return track.spec.dim_names[dim].split(" (")[0].replace(" re clip", "")


def two_digits(value: float) -> str:
    """Return a correlation as in the figures, for example .93."""
    return f"{value:.2f}".replace("0.", ".").replace("-", "−")


def _empty(axes: Any, title: str, colour: str, reason: str) -> None:
    _label(axes, title, colour)
    axes.set_yticks([])
    axes.text(0.5, 0.5, reason, transform=axes.transAxes, ha="center", va="center", color=MUTED)
