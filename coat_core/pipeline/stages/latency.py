"""Stage `latency@<backbone>`: measure the latency of two releases of one backbone, alternating within one process."""

from __future__ import annotations

from typing import TYPE_CHECKING

from coat_core.corpus.examples import read_manifest
from coat_core.evaluation.latency import measure_latency

if TYPE_CHECKING:
    from coat_core.pipeline.runner import StageRun


def run(job: StageRun) -> None:
    """Measure time to first token and decoding time of the baseline and the candidate."""
    (key,) = job.stage.axes
    settings, base = job.settings.latency, job.settings.backbones[key]  # type: ignore[index]
    measure_latency(
        {trial: job.path(f"models/{key}-{trial}") for trial in (settings.baseline, settings.candidate)},
        read_manifest(job.path("data/accepted.jsonl")),
        job.path("data/corpus"),
        settings,
        job.out(f"latency/{key}.json"),
        device=job.settings.runtime.device,
        dtype=base.dtype,
        attention=base.attention,
    )
