"""Stage `score_suite@<backbone>-<trial>-<suite>`: score the responses to a public benchmark under both readings."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from coat_core.evaluation.benchmarks.item_files import read_items
from coat_core.evaluation.benchmarks.judges import CachedJudge, Judge, ServedJudge, StandIn
from coat_core.evaluation.benchmarks.recorded import RESULT, flat_metrics
from coat_core.evaluation.benchmarks.results import write_result
from coat_core.evaluation.metrics import bootstrap_of
from coat_core.settings import SuiteSettings
from coat_core.storage import read_json

if TYPE_CHECKING:
    from coat_core.pipeline.runner import StageRun


def run(job: StageRun) -> None:
    """Write the result, and log its numbers with the run that trained the release; no model is needed, unless a judge is asked."""
    backbone, trial, suite = job.stage.axes
    settings = job.settings
    asked = _judge(settings.evaluation.suites[suite])
    target = job.out(f"evaluation/suites/{backbone}-{trial}-{suite}")
    write_result(
        read_items(job.path(f"suites/{suite}/items")),
        job.path(f"responses/suites/{backbone}-{trial}-{suite}"),
        target,
        bootstrap_of(settings.evaluation),
        # Kept by content: what was judged before is not asked again, whatever else has changed.
        CachedJudge(asked, job.workspace / ".scratch/judgements") if asked is not None else None,
    )
    job.log_run_metrics(f"{backbone}-{trial}", flat_metrics(suite, read_json(target / RESULT)))


def _judge(chosen: SuiteSettings) -> Judge | None:
    if chosen.judge is None:
        return None
    if chosen.judge_model is None:
        return StandIn()
    return ServedJudge(chosen.judge, chosen.judge_model, os.environ.get("OPENAI_API_KEY", ""))
