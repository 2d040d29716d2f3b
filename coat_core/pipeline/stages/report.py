"""Stage `report`: write the tables, the figures and the page."""

from __future__ import annotations

from typing import TYPE_CHECKING

from coat_core.corpus.examples import read_manifest
from coat_core.report.decisions import PAGE
from coat_core.report.report import write_report

if TYPE_CHECKING:
    from coat_core.pipeline.runner import StageRun


def run(job: StageRun) -> None:
    """Read the outputs of all stages that params name, write the report, and log each trial's results with its run."""
    (job.workspace / PAGE).unlink(missing_ok=True)  # Its decisions are about the last results.
    report = job.scratch / "out/report"
    results = write_report(job.workspace, job.settings, read_manifest(job.path("data/accepted.jsonl")), report)
    job.log_results(results, report)
