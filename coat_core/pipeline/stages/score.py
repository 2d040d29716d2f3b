"""Stage `score@<backbone>-<trial>`: score the saved responses of one trial; no model is needed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from coat_core.corpus.examples import read_manifest
from coat_core.evaluation.metrics import score_trial
from coat_core.settings import parse_trial

if TYPE_CHECKING:
    from coat_core.pipeline.runner import StageRun


def run(job: StageRun) -> None:
    """Write scores and metrics."""
    backbone, trial = job.stage.axes
    arm, seed = parse_trial(trial)
    score_trial(
        job.path(f"responses/{backbone}-{trial}.jsonl"),
        read_manifest(job.path("data/accepted.jsonl")),
        job.settings.evaluation,
        job.out(f"evaluation/{backbone}-{trial}"),
        {"backbone": backbone, "arm": arm.name, "seed": seed},
    )
