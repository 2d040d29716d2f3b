"""Stage `audio@<backbone>`: run the frozen audio tower of one backbone once on every clip."""

from __future__ import annotations

from typing import TYPE_CHECKING

from coat_core.audio_store.extraction import extract_audio
from coat_core.backbones.catalogue import load_backbone
from coat_core.corpus.examples import read_manifest
from coat_core.device import fixed_compute

if TYPE_CHECKING:
    from coat_core.pipeline.runner import StageRun


def run(job: StageRun) -> None:
    """Update the backbone's store in place: the store itself is resumable, and one new clip costs one clip."""
    (key,) = job.stage.axes
    runtime, base = job.settings.runtime, job.settings.backbones[key]  # type: ignore[index]
    with fixed_compute(runtime.device, runtime.threads):
        backbone = load_backbone(
            key,
            base.base,
            revision=base.revision,
            allow_moving_revision=base.allow_moving_revision,
            dtype=base.dtype,
            device=runtime.device,
            attention=base.attention,
            long_audio=base.long_audio,
        )
        extract_audio(
            backbone,
            read_manifest(job.path("data/accepted.jsonl")),
            job.path("data/corpus"),
            job.path(f"audio/{key}"),
            waveforms=job.scratch.parent / "waveforms",
        )
