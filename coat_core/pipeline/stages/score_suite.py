"""Stage `score_suite@<backbone>-<trial>-<suite>`: score the responses to a public benchmark under both readings."""

from __future__ import annotations

from typing import TYPE_CHECKING

from coat_core.evaluation.benchmarks.item_files import read_items
from coat_core.evaluation.benchmarks.judge_choice import choose_judge
from coat_core.evaluation.benchmarks.judges import CachedJudge
from coat_core.evaluation.benchmarks.places import resolve
from coat_core.evaluation.benchmarks.recorded import RESULT, flat_metrics
from coat_core.evaluation.benchmarks.results import write_result
from coat_core.evaluation.metrics import bootstrap_of
from coat_core.settings.suites import LOCAL
from coat_core.storage import read_json

if TYPE_CHECKING:
    from coat_core.pipeline.runner import StageRun


def run(job: StageRun) -> None:
    """Write the result, and log its numbers with the run that trained the release; no model is needed, unless a judge is asked."""
    backbone, trial, suite = job.stage.axes
    settings = job.settings
    chosen = settings.evaluation.suites[suite]
    model = chosen.judge_model
    # A model of a server has a name, which can be that of a folder here.
    if chosen.judge == LOCAL and model is not None:
        model = resolve(model, job.workspace)
    asked = choose_judge(chosen.judge, model, chosen.judge_revision, device=settings.runtime.device)
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
