"""A neural expert whose features depend on the other clips of the batch, so that a test can detect which clips share a batch."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

import numpy as np

from coat_core.experts.base import ExpertSpec
from coat_core.settings import ExpertSettings

HOP = 800
CALLS: list[list[int]] = []
"""Lengths of the clips of each call."""


@dataclass
class BatchMarkerExpert:
    spec: ExpertSpec
    calls: int = field(default=0)

    def __call__(self, waveforms: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        CALLS.append(lengths.tolist())
        marker = int(hashlib.sha256(repr(lengths.tolist()).encode()).hexdigest()[:3], 16) % 2048  # exact in float16
        frames = -(-lengths // HOP)
        features = np.full((len(lengths), int(frames.max()) + 3, 2), np.nan, dtype=np.float32)
        mask = np.arange(features.shape[1])[None] < frames[:, None]
        for row, (waveform, count) in enumerate(zip(waveforms, frames, strict=True)):
            padded = np.zeros(int(count) * HOP, dtype=np.float32)
            padded[: lengths[row]] = waveform[: lengths[row]]
            features[row, :count, 0] = np.abs(padded).reshape(count, HOP).mean(axis=1)
            features[row, :count, 1] = marker
        return features, mask


def build(settings: ExpertSettings) -> BatchMarkerExpert:
    spec = ExpertSpec(
        implementation="batch_marker", kind="speech", target="representation", dim=2, native_rate_hz=20.0, sample_rate_hz=16000,
        version="1", licence="MIT", commercial_use=True, source="tests", dim_names=("level", "marker"),
        checkpoint=settings.checkpoint or "batch_marker", revision=settings.revision,
    )  # fmt: skip
    return BatchMarkerExpert(spec)
