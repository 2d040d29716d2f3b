"""A neural expert whose frames betray with whom a clip was heard, so that a test sees which clips stood in one batch."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

import numpy as np

from coat_core.experts.base import ExpertSpec
from coat_core.settings import ExpertSettings

HOP = 800
HEARD: list[list[int]] = []
"""Lengths of the clips of each call."""


@dataclass
class CompanyExpert:
    spec: ExpertSpec
    fail_at: int | None = None
    calls: int = field(default=0)

    def __call__(self, waveforms: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        HEARD.append(lengths.tolist())
        company = int(hashlib.sha256(repr(lengths.tolist()).encode()).hexdigest()[:3], 16) % 2048  # exact in float16
        frames = -(-lengths // HOP)
        features = np.full((len(lengths), int(frames.max()) + 3, 2), np.nan, dtype=np.float32)
        mask = np.arange(features.shape[1])[None] < frames[:, None]
        for row, (waveform, count) in enumerate(zip(waveforms, frames, strict=True)):
            padded = np.zeros(int(count) * HOP, dtype=np.float32)
            padded[: lengths[row]] = waveform[: lengths[row]]
            features[row, :count, 0] = np.abs(padded).reshape(count, HOP).mean(axis=1)
            features[row, :count, 1] = company
        return features, mask


def build(settings: ExpertSettings) -> CompanyExpert:
    spec = ExpertSpec(
        implementation="company", kind="speech", target="representation", dim=2, native_rate_hz=20.0, sample_rate_hz=16000, version="1",
        licence="MIT", commercial_use=True, source="tests", dim_names=("level", "company"), checkpoint=settings.checkpoint or "company",
        revision=settings.revision,
    )  # fmt: skip
    return CompanyExpert(spec)
