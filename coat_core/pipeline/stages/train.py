"""Stage `train@<backbone>-<trial>`: train one trial on one backbone and publish its release."""

from __future__ import annotations

from typing import TYPE_CHECKING

from coat_core.corpus.examples import read_manifest
from coat_core.training.train import train

if TYPE_CHECKING:
    from coat_core.pipeline.runner import StageRun


def run(job: StageRun) -> None:
    """Train, or publish the untouched base where the arm trains nothing."""
    job.stage.check_experts(job.settings.experts)
    processes = job.settings.training.processes
    if processes == 1 or not job.run_in_processes(processes):
        run_here(job)


def run_here(job: StageRun) -> None:
    """Train in this process, which may be one of several."""
    backbone, trial = job.stage.axes
    with job.open_tracker(f"{backbone}-{trial}") as tracker:
        train(
            job.settings,
            backbone,
            trial,
            examples=read_manifest(job.path("data/accepted.jsonl")),
            corpus=job.path("data/corpus"),
            features={key: job.path(f"features/{key}") for key in job.settings.experts},
            target=job.out(f"models/{backbone}-{trial}"),
            records=job.out(f"runs/{backbone}-{trial}"),
            scratch=job.scratch,
            fingerprint=job.key,
            tracker=tracker,
            explain_memory=job.explain_training_memory,
            audio=job.path(f"audio/{backbone}"),
        )
