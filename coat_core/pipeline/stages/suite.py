"""Stage `suite@<suite>`: read a public benchmark; write its questions for the models and its items for the scorers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from coat_core.evaluation.benchmarks.catalogue import find_suite
from coat_core.evaluation.benchmarks.prepared import SuiteChoice, prepare

if TYPE_CHECKING:
    from coat_core.pipeline.runner import StageRun


def run(job: StageRun) -> None:
    """Write prompts and clips, and apart from them answers, groups and the files of the rule."""
    (name,) = job.stage.axes
    settings = job.settings
    chosen = settings.evaluation.suites[name]
    prepare(
        find_suite(chosen.benchmark(name)),
        SuiteChoice(chosen.data, chosen.split, chosen.limit, chosen.accept_licence, job.workspace),
        chosen.max_new_tokens or settings.evaluation.max_new_tokens,
        job.out(f"suites/{name}/questions"),
        job.out(f"suites/{name}/items"),
    )
