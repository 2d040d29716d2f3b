"""Pictures of the pages that a run leaves, from a real browser: report, MLflow, Prefect, demo page.

    python -m benchmarks.screenshots WORKSPACE [--to docs/images] [--only report,mlflow,prefect,demo]

The workspace has completed `coat run`. `coat ui` and `coat demo` are started in it, as a user starts them. Pages of DVC are not among
them: they load their chart library from the network when they are opened. It needs what `make services` installs.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.pages import pages
from coat_core.registry.database import connect
from coat_core.registry.parents import NOTE, PARENT
from coat_core.servers import free_port
from tests.testing import chain_runs
from tests.testing.browser import chromium, reason_to_skip

ROOT = Path(__file__).resolve().parent.parent
SIZE = {"width": 1440, "height": 900}
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
    page.evaluate("document.querySelector('#items').scrollIntoView()")
    _take(page, to / "page_report_items.png")


def mlflow(browser: Any, workspace: Path, to: Path) -> None:
    """MLflow: the runs of an experiment, a parent and the comparison that it links to, a trial, its tables, and a version."""
    with pages([str(chain_runs.BIN / "coat"), "ui"], workspace, "Ctrl-C") as found:
        address = found[0]
        client = connect(workspace)
        trials = client.search_runs([e.experiment_id for e in client.search_experiments()], "tags.arm = 'coat'")
        parent = client.get_run(trials[0].data.tags[PARENT])
        model = next(model for model in client.search_registered_models() if model.aliases)
        version = next(iter(model.aliases.values()))
        trial = client.get_run(client.get_model_version(model.name, version).run_id)
        at = f"{address}/#/experiments/{trial.info.experiment_id}/runs"
        page = _open(browser, at)
        _close_assistant(page)
        page.locator(".ag-row button").first.click()
        _take(page, to / "page_mlflow_runs.png")
        link = re.search(r"\]\((#[^)]+)\)", parent.data.tags[NOTE])
        pictures = {
            "parent": f"{at}/{parent.info.run_id}", "trial": f"{at}/{trial.info.run_id}",
            "confusion": f"{at}/{trial.info.run_id}/artifacts/tables/confusion.json",
            "version": f"{address}/#/models/{model.name}/versions/{version}",
        } | ({"compare": f"{address}/{link[1]}"} if link else {})  # fmt: skip
        for name, place in pictures.items():
            page = _open(browser, place)
            _close_assistant(page)
            for path in page.get_by_text("Path:").all():
                path.evaluate("line => line.style.visibility = 'hidden'")  # A path of this machine.
            _take(page, to / f"page_mlflow_{name}.png")


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
        page.get_by_text("decisions", exact=True).first.click()
        _take(page, to / "page_prefect_decisions.png")


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


def _close_assistant(page: Any) -> None:
    """Close the panel that MLflow opens beside a page in a new browser."""
    button = page.locator('button[aria-label="Close"]')
    if button.count():
        button.first.click()


def _take(page: Any, path: Path) -> None:
    page.wait_for_timeout(SETTLE_MS)
    path.parent.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=path)
    print(f"{path.name}: {page.title()}", flush=True)


if __name__ == "__main__":
    main()
