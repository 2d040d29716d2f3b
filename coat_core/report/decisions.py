"""The decisions of the promotion gate as a page beside the report.

The report is an output of DVC's graph, made before the gate decides, so the decisions have a page of their own. A new report removes it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from coat_core.report.templates import template
from coat_core.storage import read_json, write_text

PAGE = Path("report/decisions.html")


def write_decisions(
    workspace: Path,
    decisions: Sequence[Mapping[str, Any]],
    *,
    run: str,
    registry: str = "",
    page_of_run: Callable[[str], str] | None = None,
) -> None:
    """Write the page.

    Args:
        workspace: contains the report.
        decisions: `model`, `version`, `decision` and `reasons` of each version.
        run: name of the chain run: workspace, params and commit.
        registry: address of MLflow's server; empty if there is none.
        page_of_run: returns the page of a run, relative to that address; None without a server.
    """
    trainings = [
        (f"{key}-{trial}", training["run_id"], page_of_run(training["run_id"]) if registry and page_of_run else "")
        for key, backbone in read_json(workspace / "report/results.json")["backbones"].items()
        for trial, training in backbone["training"].items()
        if training["run_id"]
    ]
    text = template("decisions.html.j2").render(
        decisions=decisions, run=run, registry=registry, trainings=trainings, time=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
    )
    write_text(workspace / PAGE, text)
