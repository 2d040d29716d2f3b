"""Stage `answer@<backbone>-<trial>`: answer the evaluation split with one release and save its responses."""

from __future__ import annotations

from typing import TYPE_CHECKING

from coat_core.corpus.examples import read_manifest
from coat_core.evaluation.generate import answer_release

if TYPE_CHECKING:
    from coat_core.pipeline.runner import StageRun


def run(job: StageRun) -> None:
    """Write the responses; they are scored by the stage `score`."""
    backbone, trial = job.stage.axes
    base = job.settings.backbones[backbone]  # type: ignore[index]
    answer_release(
        job.path(f"models/{backbone}-{trial}"),
        read_manifest(job.path("data/accepted.jsonl")),
        job.path("data/corpus"),
        job.settings.evaluation,
        job.out(f"responses/{backbone}-{trial}.jsonl"),
        device=job.settings.runtime.device,
        dtype=base.dtype,
        attention=base.attention,
        explain_memory=job.explain_answering_memory,
        audio=job.path(f"audio/{backbone}"),
    )
