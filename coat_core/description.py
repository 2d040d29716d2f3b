"""The experts' outputs of a clip as a short English text: what the arm `described` writes before its answer.

Reasoning in decoded text is the usual alternative to a thinking block: the same expert outputs, but as decoded tokens. The text is
deterministic and has about 20 to 40 words.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from coat_core.corpus.examples import Example
from coat_core.experts.base import ExpertSpec, Kind
from coat_core.experts.store.store import ExpertStore

SEPARATOR = "\nAnswer: "
"""Text between description and answer; a description is one line."""
DESCRIPTION_TOKENS = 256
"""Tokens that a description may take, in addition to those of the answer; with the tokenizers of the tiny bases, most take 80 to 160."""

_HEADINGS: dict[Kind, str] = {"events": "Sounds", "speech": "Speech", "affect": "Voice", "pitch": "Pitch", "reconstruction": "Signal"}
"""The kinds in the order of the text, and the word that introduces each."""
_SEPARATOR = re.compile(r"(?:\A|\n)[ \t]*Answer:[ \t]*")
_NOTE = re.compile(r"([A-G])(#?)(-?\d+)\Z")
_SEMITONES = {"C": 0, "D": 2, "E": 4, "F": 5, "G": 7, "A": 9, "B": 11}

Floats = NDArray[np.float32]


class _Normaliser(Protocol):
    @property
    def mean(self) -> Floats: ...
    @property
    def std(self) -> Floats: ...


@dataclass(frozen=True)
class ExpertOutput:
    """An expert's output for one clip.

    Attributes:
        spec: spec of the expert.
        features: `[T, d]`, not standardised, at `spec.native_rate_hz`.
        mask: `[T]`, True on valid frames.
        normaliser: mean and standard deviation `[d]` of the training split; needed by target `regression` only.
    """

    spec: ExpertSpec
    features: Floats
    mask: NDArray[np.bool_]
    normaliser: _Normaliser | None = None


def describe(outputs: Mapping[str, ExpertOutput]) -> str:
    """Return one line of text on the experts' outputs of a clip; experts of one kind are in the order of their keys.

    Posteriors become the names of their classes with coarse times, regressions the names of their most unusual dimensions with a level, and
    pitch bins a frequency, a direction and the voiced share. Representations have no readable dimensions and are left out.

    Args:
        outputs: expert key → output.
    """
    parts = []
    for kind, heading in _HEADINGS.items():
        said = [text for key in sorted(outputs) if outputs[key].spec.kind == kind and (text := _say(outputs[key]))]
        if said:
            parts.append(f"{heading}: {', '.join(said)}.")
    return " ".join(parts)


def describe_clip(stores: Mapping[str, ExpertStore], sha256: str) -> str:
    """Return the description of a clip from the experts' stores.

    Raises:
        ExpertError: a store lacks the clip.
    """
    return describe({key: ExpertOutput(store.spec, *store.get(sha256), store.normaliser) for key, store in stores.items()})


def described_answers(stores: Mapping[str, ExpertStore], examples: Sequence[Example]) -> dict[str, str]:
    """Return the text that arm `described` is trained to generate: example id → description and answer. Unlabelled examples have none.

    Raises:
        ExpertError: a store lacks a clip.
    """
    labelled = [example for example in examples if example.labelled]
    descriptions = {sha256: describe_clip(stores, sha256) for sha256 in dict.fromkeys(example.sha256 for example in labelled)}
    return {example.id: description_target(descriptions[example.sha256], example.label) for example in labelled}


def description_target(description: str, answer: str) -> str:
    """Return description, separator and answer."""
    return description + SEPARATOR + answer


def split_description(response: str) -> tuple[str | None, str]:
    """Return description and answer of a response.

    Without a separator, the response is a description that did not end: it has no answer, which is empty then and counts as unscored. Only
    the first separator counts, so an answer may contain its text.
    """
    found = _SEPARATOR.search(response)
    if found is None:
        return response.strip() or None, ""
    return response[: found.start()].strip() or None, response[found.end() :].strip()


def _say(output: ExpertOutput) -> str:
    spec, mask = output.spec, np.asarray(output.mask, dtype=bool)
    if spec.target == "representation":
        return ""
    frames = np.asarray(output.features, dtype=np.float64)
    if not mask.any():
        return "unknown"
    if spec.target == "posteriors":
        return _classes(frames, mask, spec)
    if spec.target == "pitch_bins":
        return _pitch(frames[mask], spec)
    return _levels(frames[mask], spec, output.normaliser)


def _classes(posteriors: NDArray[np.float64], mask: NDArray[np.bool_], spec: ExpertSpec, *, threshold: float = 0.5, most: int = 5) -> str:
    """Return the classes above the threshold in order of time; the longest and surest ones, if there are too many."""
    rate, seconds = spec.native_rate_hz, len(mask) / spec.native_rate_hz
    found = []
    for dim, name in enumerate(spec.dim_names):
        for first, last in _runs((posteriors[:, dim] > threshold) & mask, gap=max(1, round(0.2 * rate))):
            weight = float(posteriors[first : last + 1, dim].sum())
            found.append((weight, first / rate, (last + 1) / rate, name))
    kept = sorted(sorted(found, reverse=True)[:most], key=lambda run: (run[1], run[3]))
    said = [name if end - start > 0.8 * seconds else f"{name} {start:.1f} to {end:.1f} s" for _, start, end, name in kept]
    return ", ".join(said) or "none"


def _runs(active: NDArray[np.bool_], gap: int) -> list[tuple[int, int]]:
    """Return first and last frame of each run of True; runs with fewer than `gap` frames between them are one."""
    runs: list[tuple[int, int]] = []
    for frame in np.flatnonzero(active).tolist():
        if runs and frame - runs[-1][1] <= gap:
            runs[-1] = runs[-1][0], frame
        else:
            runs.append((frame, frame))
    return runs


def _levels(frames: NDArray[np.float64], spec: ExpertSpec, normaliser: _Normaliser | None, *, most: int = 3) -> str:
    """Return the dimensions that are furthest from the mean of the training split, each with its level and its change over the clip.

    Names that begin with the same word, as those of neighbouring bands, are one dimension; units in parentheses are left out.
    """
    mean = frames.mean(axis=0) if normaliser is None else np.asarray(normaliser.mean, dtype=np.float64)
    std = np.ones(spec.dim) if normaliser is None else np.asarray(normaliser.std, dtype=np.float64)
    standard = (frames - mean) / std
    thirds = np.array_split(standard, 3) if len(standard) >= 3 else [standard] * 3
    centre, change = standard.mean(axis=0), thirds[-1].mean(axis=0) - thirds[0].mean(axis=0)
    said: dict[str, str] = {}
    for dim in sorted(range(spec.dim), key=lambda dim: (-abs(round(float(centre[dim]), 4)), dim)):
        name = re.sub(r"\s*\([^)]*\)", "", spec.dim_names[dim])
        said.setdefault(name.split()[0] if name.split() else name, f"{name} {_level(float(centre[dim]))}{_trend(float(change[dim]))}")
    return ", ".join(list(said.values())[:most])


def _level(value: float) -> str:
    side = "low" if value < 0 else "high"
    return "medium" if abs(value) < 0.5 else side if abs(value) < 1.5 else f"very {side}"


def _trend(change: float) -> str:
    return "" if abs(change) < 0.5 else " falling" if change < 0 else " rising"


def _pitch(frames: NDArray[np.float64], spec: ExpertSpec) -> str:
    """Return the mean pitch, its range and direction, and the share of voiced frames."""
    voiced = frames[frames[:, -1] > 0.5][:, :-1]
    share = f"{round(100 * len(voiced) / len(frames))} % voiced"
    total = voiced.sum(axis=1, keepdims=True)
    if not len(voiced) or not (total > 0).all():
        return share
    track = (voiced / total) @ np.arange(voiced.shape[1])
    thirds = np.array_split(track, 3) if len(track) >= 3 else [track] * 3
    change = float(np.median(thirds[-1]) - np.median(thirds[0]))
    direction = "flat" if abs(change) < 1 else "falling" if change < 0 else "rising"
    low, high = np.quantile(track, (0.1, 0.9))
    return f"{_height(float(track.mean()), spec)}, {direction}, range {round(float(high - low))} semitones, {share}"


def _height(position: float, spec: ExpertSpec) -> str:
    """Return the frequency at a position among the bins, which are semitones named by their notes; the name itself if it is no note."""
    nearest = spec.dim_names[round(position)]
    note = _NOTE.match(spec.dim_names[0])
    if note is None:
        return nearest
    # Scientific pitch notation: A4 is 440 Hz (ISO 16).
    semitones_from_a4 = 12 * (int(note[3]) - 4) + _SEMITONES[note[1]] + len(note[2]) - 9
    return f"{round(440.0 * 2.0 ** ((semitones_from_a4 + position) / 12.0))} Hz"
