"""Stage `features@<expert>`: extract the features of one expert."""

from __future__ import annotations

from typing import TYPE_CHECKING

from coat_core.corpus.examples import read_manifest
from coat_core.experts.store.extraction import extract_features

if TYPE_CHECKING:
    from coat_core.pipeline.runner import StageRun


def run(job: StageRun) -> None:
    """Update the expert's store in place: the store itself is resumable, and one new clip costs one clip."""
    (key,) = job.stage.axes
    extract_features(
        key,
        job.settings.experts[key],
        read_manifest(job.path("data/accepted.jsonl")),
        job.path("data/corpus"),
        job.path(f"features/{key}"),
        threads=job.settings.runtime.threads,
        waveforms=job.scratch.parent / "waveforms",
    )
