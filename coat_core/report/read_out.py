"""What it heard: what the heads read from the thinking block for one clip, beside what the experts measured on its sound."""

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
    """One expert's view of one clip, thought and measured.

    Attributes:
        spec: the expert's.
        thought: `[T, d]` read from the thinking block, frame t at (t + ½) · thought_s.
        thought_s: seconds a frame of `thought` covers.
        measured: `[N, d]` from the expert, at its native rate; NaN where a frame is not valid.
    """

    spec: ExpertSpec
    thought: Frames
    thought_s: float
    measured: Frames

    @property
    def thought_times(self) -> NDArray[np.float64]:
        """Centres of the thought frames, in seconds."""
        return np.asarray((np.arange(len(self.thought)) + 0.5) * self.thought_s)

    @property
    def measured_times(self) -> NDArray[np.float64]:
        """Times of the measured frames, in seconds."""
        return np.asarray(np.arange(len(self.measured)) / self.spec.native_rate_hz)

    @property
    def pooled(self) -> Frames:
        """The measured frames averaged over each thought frame, `[T, d]`; NaN where none is valid."""
        bins = np.minimum((self.measured_times / self.thought_s + 1e-6).astype(int), len(self.thought) - 1)
        valid = np.isfinite(self.measured).all(axis=1)
        total, count = np.zeros_like(self.thought), np.zeros((len(self.thought), 1), dtype=np.float32)
        np.add.at(total, bins[valid], self.measured[valid])
        np.add.at(count, bins[valid], 1.0)
        return np.asarray(np.where(count > 0, total / np.maximum(count, 1.0), np.nan), dtype=np.float32)

    def agreement(self, dim: int) -> float | None:
        """Correlation over time between thought and measured values of one dim; None where one of them does not move."""
        measured, thought = self.pooled[:, dim], self.thought[:, dim]
        valid = np.isfinite(measured)
        if valid.sum() < 3 or measured[valid].std() < 1e-6 or thought[valid].std() < 1e-6:
            return None
        return float(np.corrcoef(measured[valid], thought[valid])[0, 1])


@dataclass(frozen=True)
class Heard:
    """One clip, what was asked and answered, and every expert's track by kind."""

    example: Example
    waveform: Frames
    """Mono `[N]` at 16 kHz."""
    backbone: str
    trial: str
    response: str
    score: float | None
    """In [0, 1]; None where the response could not be read."""
    tracks: Mapping[str, Track]

    @property
    def duration_s(self) -> float:
        """Length of the clip."""
        return len(self.waveform) / 16_000


def listen(
    release: Any, example: Example, waveform: Frames, stores: Mapping[str, Any], *, trial: str, response: str, score: float | None
) -> Heard:
    """Read a release's thinking block on one clip and set the experts' own frames beside it.

    Args:
        release: a loaded `Release` with heads.
        example: the question.
        waveform: mono `[N]` at 16 kHz.
        stores: expert key → open `ExpertStore`; experts without a store are left out.
        trial: `<arm>-<seed>`.
        response: what the release answered.
        score: of the response.

    Raises:
        ReleaseError: the release has no heads.
    """
    from coat_core.backbones.base import Query

    duration = len(waveform) / 16_000
    read = release.predict([Query(key=example.sha256, waveform=waveform, text=example.prompt, name=example.id)])
    tracks = {}
    for key, clips in read.items():
        if key not in stores or example.sha256 not in stores[key]:
            continue
        features, mask = stores[key].get(example.sha256)
        thought = clips[0].float().cpu().numpy()
        measured = np.where(np.asarray(mask, dtype=bool)[:, None], np.asarray(features, dtype=np.float32), np.nan).astype(np.float32)
        spec = stores[key].spec
        tracks[spec.kind] = Track(spec, thought, duration / len(thought), measured)
    return Heard(example, waveform, release.info.backbone, trial, response, score, tracks)


def sample(examples: Sequence[Example], split: str) -> list[Example]:
    """Return the first example of each family in the split: no picking."""
    first: dict[str, Example] = {}
    for example in examples:
        if example.split == split:
            first.setdefault(example.family, example)
    return list(first.values())


def stores_of(workspace: Path, experts: Sequence[str]) -> dict[str, Any]:
    """Open the stores of the named experts below `features/`; those that are not there are left out."""
    from coat_core.experts.store.store import ExpertStore

    return {key: ExpertStore.open(workspace / "features" / key) for key in experts if (workspace / "features" / key).is_dir()}
