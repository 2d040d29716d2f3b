"""Stage `latency_described@<backbone>-<trial>`: measure the latency of the candidate against a trial of arm `described`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from coat_core.corpus.examples import read_manifest
from coat_core.evaluation.latency import measure_described_latency

if TYPE_CHECKING:
    from coat_core.pipeline.runner import StageRun


def run(job: StageRun) -> None:
    """Measure total latency and decoded tokens of both trials, alternating within one process."""
    key, trial = job.stage.axes
    settings, base = job.settings.latency, job.settings.backbones[key]  # type: ignore[index]
    measure_described_latency(
        {name: job.path(f"models/{key}-{name}") for name in (settings.candidate, trial)},
        trial,
        read_manifest(job.path("data/accepted.jsonl")),
        job.path("data/corpus"),
        settings,
        job.out(f"latency/{key}-{trial}.json"),
        device=job.settings.runtime.device,
        dtype=base.dtype,
        attention=base.attention,
    )
