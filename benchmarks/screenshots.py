"""Pictures of the pages that a run leaves, from a real browser: report, MLflow, Prefect, demo page.

    python -m benchmarks.screenshots WORKSPACE [--to docs/images] [--only report,mlflow,prefect,demo]

The workspace has completed `coat run`. `coat ui` and `coat demo` are started in it, as a user starts them. Pages of DVC are not among
them: they load their chart library from the network when they are opened. It needs what `make services` installs.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.pages import pages
from coat_core.registry.database import connect
from coat_core.servers import free_port
from tests.testing import chain_runs
from tests.testing.browser import chromium, reason_to_skip

ROOT = Path(__file__).resolve().parent.parent
SIZE = {"width": 1280, "height": 900}
SETTLE_MS = 2_500
"""Charts are drawn after their page has loaded."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workspace", type=Path)
    parser.add_argument("--to", type=Path, default=ROOT / "docs/images")
    parser.add_argument("--only", default=",".join(GROUPS), help="default: %(default)s")
    options = parser.parse_args()
    if reason := reason_to_skip():
        sys.exit(f"{reason}: make services")
    workspace = options.workspace.resolve()
    with chromium() as browser:
        for name in options.only.split(","):
            GROUPS[name](browser, workspace, options.to)


def report(browser: Any, workspace: Path, to: Path) -> None:
    """The report: its top, and its sample items."""
    page = _open(browser, (workspace / "report/report.html").as_uri())
    _take(page, to / "page_report.png")
    page.locator("#items").scroll_into_view_if_needed()
    page.evaluate("document.querySelector('#items').scrollIntoView()")
    _take(page, to / "page_report_items.png")


def mlflow(browser: Any, workspace: Path, to: Path) -> None:
    """MLflow: runs of an experiment as a table and compared by their accuracy, a run's table, and a version."""
    with pages([str(chain_runs.BIN / "coat"), "ui"], workspace, "Ctrl-C") as found:
        address = found[0]
        client = connect(workspace)
        experiment = next(e for e in client.search_experiments() if client.search_runs([e.experiment_id], "tags.mlflow.parentRunId != ''"))
        runs = client.search_runs([experiment.experiment_id], "tags.mlflow.parentRunId != ''")
        run = next(run for run in runs if "coat-" in run.info.run_name)
        model = next(model for model in client.search_registered_models() if model.aliases)
        version = next(iter(model.aliases.values()))
        at = f"{address}/#/experiments/{experiment.experiment_id}"
        _take(_open(browser, f"{at}/runs"), to / "page_mlflow_runs.png")
        _take(_open(browser, f"{at}/runs?compareRunsMode=CHART"), to / "page_mlflow_charts.png")
        _take(_open(browser, f"{at}/runs/{run.info.run_id}"), to / "page_mlflow_run.png")
        _take(_open(browser, f"{at}/runs/{run.info.run_id}/artifacts/tables/accuracy.json"), to / "page_mlflow_table.png")
        _take(_open(browser, f"{address}/#/models/{model.name}"), to / "page_mlflow_model.png")
        _take(_open(browser, f"{address}/#/models/{model.name}/versions/{version}"), to / "page_mlflow_version.png")


def prefect(browser: Any, workspace: Path, to: Path) -> None:
    """Prefect: the graph of a run, its stages, its artifacts."""
    import httpx

    with pages([str(chain_runs.BIN / "coat"), "ui"], workspace, "Ctrl-C") as found:
        address = found[1]
        body = {"sort": "START_TIME_DESC", "limit": 50, "flow_runs": {"state": {"type": {"any_": ["COMPLETED"]}}}}
        runs = httpx.post(f"{address}/api/flow_runs/filter", json=body, timeout=60).raise_for_status().json()
        run = next(run for run in runs if run["parent_task_run_id"] is None)
        page = _open(browser, f"{address}/runs/flow-run/{run['id']}")
        _take(page, to / "page_prefect_run.png")
        page.get_by_text("Artifacts", exact=True).first.click()
        page.wait_for_timeout(SETTLE_MS)
        _take(page, to / "page_prefect_artifacts.png")


def demo(browser: Any, workspace: Path, to: Path) -> None:
    """The demo page: a question with its answers, and the saved responses."""
    from playwright.sync_api import expect

    expect.set_options(timeout=1000 * chain_runs.HANG_S)
    with pages([str(chain_runs.BIN / "coat"), "demo", "--port", str(free_port())], workspace, "http://") as (address, *_):
        page = _open(browser, address)
        page.select_option("#sample", index=1)
        page.click("#send")
        expect(page.locator("#status")).to_have_text("done")
        page.screenshot(path=to / "page_demo.png", full_page=True)
        page.goto(f"{address.rstrip('/')}/#items")
        _take(page, to / "page_demo_items.png")


GROUPS: dict[str, Callable[[Any, Path, Path], None]] = {"report": report, "mlflow": mlflow, "prefect": prefect, "demo": demo}


def _open(browser: Any, address: str) -> Any:
    page = browser.new_page(viewport=SIZE)
    page.set_default_timeout(1000 * chain_runs.HANG_S)
    page.goto(address)
    page.wait_for_timeout(SETTLE_MS)
    return page


def _take(page: Any, path: Path) -> None:
    page.wait_for_timeout(SETTLE_MS)
    path.parent.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=path)
    print(f"{path.name}: {page.title()}", flush=True)


if __name__ == "__main__":
    main()
