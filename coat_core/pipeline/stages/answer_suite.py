"""Stage `answer_suite@<backbone>-<trial>-<suite>`: answer a public benchmark with one release and save its responses."""

from __future__ import annotations

from typing import TYPE_CHECKING

from coat_core.evaluation.benchmarks.answers import answer_suite
from coat_core.evaluation.benchmarks.places import resolve

if TYPE_CHECKING:
    from coat_core.pipeline.runner import StageRun


def run(job: StageRun) -> None:
    """Write the responses; they are scored by the stage `score_suite`. A stopped stage goes on after its last batch."""
    backbone, trial, suite = job.stage.axes
    settings = job.settings
    base = settings.backbones[backbone]  # type: ignore[index]
    answer_suite(
        job.path(f"models/{backbone}-{trial}"),
        job.path(f"suites/{suite}/questions"),
        resolve(settings.evaluation.suites[suite].data, job.workspace),
        job.out(f"responses/suites/{backbone}-{trial}-{suite}"),
        job.scratch / "answers.jsonl",
        batch_size=settings.evaluation.batch_size,
        device=settings.runtime.device,
        dtype=base.dtype,
        attention=base.attention,
        explain_memory=job.explain_answering_memory,
    )
