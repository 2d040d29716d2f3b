"""The read-out of one clip: the features that heads predict from the thinking block, and those that the experts measure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coat_core.corpus.examples import Example
from coat_core.experts.base import ExpertSpec

Frames = NDArray[np.float32]


@dataclass(frozen=True)
class Track:
    """Predicted and measured features of one expert on one clip.

    Attributes:
        spec: spec of the expert.
        predicted: `[T, d]` from the head; the centre of frame t is at (t + ½) · predicted_s.
        predicted_s: duration of a frame of `predicted`, in seconds.
        measured: `[N, d]` from the expert, at its native rate; NaN in invalid frames.
    """

    spec: ExpertSpec
    predicted: Frames
    predicted_s: float
    measured: Frames

    @property
    def predicted_times(self) -> NDArray[np.float64]:
        """Centres of the predicted frames, in seconds."""
        return np.asarray((np.arange(len(self.predicted)) + 0.5) * self.predicted_s)

    @property
    def measured_times(self) -> NDArray[np.float64]:
        """Times of the measured frames, in seconds."""
        return np.asarray(np.arange(len(self.measured)) / self.spec.native_rate_hz)

    @property
    def pooled(self) -> Frames:
        """Measured frames averaged over each predicted frame, `[T, d]`; NaN where no frame is valid."""
        bins = np.minimum((self.measured_times / self.predicted_s + 1e-6).astype(int), len(self.predicted) - 1)
        valid = np.isfinite(self.measured).all(axis=1)
        total, count = np.zeros_like(self.predicted), np.zeros((len(self.predicted), 1), dtype=np.float32)
        np.add.at(total, bins[valid], self.measured[valid])
        np.add.at(count, bins[valid], 1.0)
        return np.asarray(np.where(count > 0, total / np.maximum(count, 1.0), np.nan), dtype=np.float32)

    def correlation(self, dim: int) -> float | None:
        """Return the correlation over time between predicted and measured values of one dim; None if either is constant."""
        measured, predicted = self.pooled[:, dim], self.predicted[:, dim]
        valid = np.isfinite(measured)
        if valid.sum() < 3 or measured[valid].std() < 1e-6 or predicted[valid].std() < 1e-6:
            return None
        return float(np.corrcoef(measured[valid], predicted[valid])[0, 1])


@dataclass(frozen=True)
class ReadOut:
    """One clip with its question, the model's response, and a track per kind of expert."""

    example: Example
    """Its `answer` is empty if the right answer is unknown."""
    waveform: Frames
    """Mono `[N]` at 16 kHz."""
    backbone: str
    trial: str
    response: str
    score: float | None
    """In [0, 1]; None if the response is unscored."""
    tracks: Mapping[str, Track]

    @property
    def duration_s(self) -> float:
        """Duration of the clip."""
        return len(self.waveform) / 16_000


def predict_clip(
    release: Any, example: Example, waveform: Frames, stores: Mapping[str, Any], *, trial: str, response: str, score: float | None
) -> ReadOut:
    """Predict the experts' features of one clip from the thinking block, and read the measured ones from the stores.

    Args:
        release: a loaded `Release` with heads.
        example: the question.
        waveform: mono `[N]` at 16 kHz.
        stores: expert key → open `ExpertStore`; experts without a store are left out.
        trial: `<arm>-<seed>`.
        response: the model's response.
        score: score of the response.

    Raises:
        ReleaseError: the release has no heads.
    """
    from coat_core.backbones.base import Query

    duration = len(waveform) / 16_000
    features_by_key = release.predict([Query(key=example.sha256, waveform=waveform, text=example.prompt, name=example.id)])
    tracks = {}
    for key, clips in features_by_key.items():
        if key not in stores or example.sha256 not in stores[key]:
            continue
        features, mask = stores[key].get(example.sha256)
        predicted = clips[0].float().cpu().numpy()
        measured = np.where(np.asarray(mask, dtype=bool)[:, None], np.asarray(features, dtype=np.float32), np.nan).astype(np.float32)
        spec = stores[key].spec
        tracks[spec.kind] = Track(spec, predicted, duration / len(predicted), measured)
    return ReadOut(example, waveform, release.info.backbone, trial, response, score, tracks)


def first_of_each_family(examples: Sequence[Example], split: str) -> list[Example]:
    """Return the first example of each family in the split."""
    first: dict[str, Example] = {}
    for example in examples:
        if example.split == split:
            first.setdefault(example.family, example)
    return list(first.values())


def open_stores(workspace: Path, experts: Sequence[str]) -> dict[str, Any]:
    """Open the stores of the named experts in `features/`; missing ones are left out."""
    from coat_core.experts.store.store import ExpertStore

    return {key: ExpertStore.open(workspace / "features" / key) for key in experts if (workspace / "features" / key).is_dir()}
