"""Stage `probe@<backbone>-<trial>`: measure whether the supervision of the thinking block reaches the answer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from coat_core.corpus.examples import read_manifest
from coat_core.probing.probe import probe_release
from coat_core.probing.verdict import FOLDER, flat_metrics

if TYPE_CHECKING:
    from coat_core.pipeline.runner import StageRun


def run(job: StageRun) -> None:
    """Write the probes of one release, print the verdict, and log the main numbers with the run that trained it."""
    backbone, trial = job.stage.axes
    settings = job.settings
    job.stage.check_experts(settings.experts)
    baseline = settings.probes.baseline
    result = probe_release(
        job.path(f"models/{backbone}-{trial}"),
        None if baseline in (None, trial) else job.path(f"models/{backbone}-{baseline}"),
        read_manifest(job.path("data/accepted.jsonl")),
        job.path("data/corpus"),
        {key: job.path(f"features/{key}") for key in settings.experts},
        job.out(f"{FOLDER}/{backbone}-{trial}.json"),
        probes=settings.probes,
        heads=settings.heads,
        losses=settings.losses,
        audio=job.path(f"audio/{backbone}"),
        device=settings.runtime.device,
        dtype=settings.backbones[backbone].dtype,  # type: ignore[index]
    )
    print(f"{backbone}-{trial}: {result['verdict']['sentence']}")
    job.log_run_metrics(f"{backbone}-{trial}", flat_metrics(result))
