"""`coat deploy` and the automations, with a real Prefect server, worker and webhook: late, failed and lost runs."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.testing import chain_runs
from tests.testing.prefect_site import Site, prefect_site, webhook

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

WAIT = """  wait:
    cmd: exec .venv/bin/python -c "from coat_core import watchdog; watchdog.watch_owner(); import time; time.sleep(1e6)"
"""
VOLATILE = {"updated", "last_polled", "status", "is_schedule_active", "labels"}
"""Fields that a server changes by itself."""


@pytest.fixture(scope="module")
def received() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    with webhook() as running:
        yield running


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, received: tuple[str, list[dict[str, Any]]]) -> Iterator[Site]:
    """A server without a worker: a test starts it."""
    folder = tmp_path_factory.mktemp("prefect")
    # The server looks for late runs more often than by default: the tests wait for it.
    with prefect_site(folder, PREFECT_SERVER_SERVICES_LATE_RUNS_AFTER_SECONDS="1") as made:
        yield made


def everything(site: Site) -> dict[str, Any]:
    """Return what the server has of deployments, automations and blocks, without what it changes by itself."""
    found = {name: site.request(f"/{name}/filter", {}) for name in ("deployments", "automations", "work_pools", "block_documents")}
    found["runs"] = site.request("/flow_runs/filter", {"sort": "ID_DESC"})
    return {
        name: sorted(({key: value for key, value in entry.items() if key not in VOLATILE} for entry in entries), key=json.dumps)
        for name, entries in found.items()
    }


def arrived(received: tuple[str, list[dict[str, Any]]], run: str, state: str) -> bool:
    return any(body["run"] == run and f" is {state}: " in body["text"] for body in received[1])


def test_without_a_webhook_it_is_said_that_nobody_is_notified(site: Site) -> None:
    printed = site.deploy("--lost-after", "90")
    assert "work pool coat: created (process)" in printed
    assert "deployment coat/nightly: created" in printed
    assert "automation coat: run without a sign of life: created" in printed
    assert "nobody is notified (coat: run failed, coat: run is late): set COAT_NOTIFY_URL to a webhook" in printed
    (automation,) = site.request("/automations/filter", {})
    assert automation["name"] == "coat: run without a sign of life"


def test_the_same_command_again_changes_nothing(site: Site, received: tuple[str, list[dict[str, Any]]]) -> None:
    printed = site.deploy("--lost-after", "90", COAT_NOTIFY_URL=received[0])
    assert "notification: created" in printed
    assert "deployment coat/manual: as before" in printed
    assert "secret-path" not in printed
    nightly = site.request("/deployments/name/coat/nightly")
    (schedule,) = nightly["schedules"]
    assert (schedule["schedule"]["cron"], schedule["schedule"]["timezone"], schedule["active"]) == ("0 2 * * *", "UTC", True)
    filters = {"deployments": {"id": {"any_": [nightly["id"]]}}, "flow_runs": {"state": {"type": {"any_": ["SCHEDULED"]}}}}
    assert chain_runs.wait_for(lambda: site.request("/flow_runs/count", filters) > 0, interval_s=1)
    before = everything(site)
    assert [len(before[name]) for name in ("deployments", "automations", "work_pools")] == [2, 3, 1]
    for extra in ({"COAT_NOTIFY_URL": received[0]}, {}):
        printed = site.deploy("--lost-after", "90", **extra)
        assert {line.rpartition(": ")[2].partition(" (")[0] for line in printed.splitlines()} == {"as before"}
    after = everything(site)
    # The scheduler may have added runs of the next nights in the meantime; none was removed.
    ids = {run["id"] for run in after["runs"]}
    assert all(run["id"] in ids for run in before["runs"])
    assert {**before, "runs": []} == {**after, "runs": []}


def test_a_change_of_the_time_changes_one_automation_and_keeps_what_was_switched_off(site: Site) -> None:
    before = {entry["name"]: entry for entry in site.request("/automations/filter", {})}
    assert site.command("prefect", "automation", "pause", "coat: run is late").returncode == 0
    printed = site.deploy("--lost-after", "91")
    assert "automation coat: run without a sign of life: changed" in printed
    after = {entry["name"]: entry for entry in site.request("/automations/filter", {})}
    assert {name: entry["id"] for name, entry in after.items()} == {name: entry["id"] for name, entry in before.items()}
    assert after["coat: run without a sign of life"]["trigger"]["within"] == 91.0
    assert after["coat: run is late"]["enabled"] is False
    assert site.command("prefect", "automation", "resume", "coat: run is late").returncode == 0
    assert "changed" in site.deploy("--lost-after", "90")


def test_a_late_and_then_a_failed_run_are_notified(site: Site, received: tuple[str, list[dict[str, Any]]], tmp_path: Path) -> None:
    run = site.start("manual", workspace=str(tmp_path))
    assert chain_runs.wait_for(lambda: arrived(received, run, "Late"), interval_s=0.5), site.log.read_text()[-3000:]
    site.start_worker()
    assert site.wait_for_end(run) == "FAILED", site.worker_log.read_text()[-3000:]
    assert chain_runs.wait_for(lambda: arrived(received, run, "Failed"), interval_s=0.5), site.log.read_text()[-3000:]
    # Prefect delivers at least once: it repeats a notification if its database refuses to record that it was sent.
    body, *repeated = (body for body in received[1] if body["run"] == run and " is Failed: " in body["text"])
    assert all(other == body for other in repeated)
    assert body["content_type"] == "application/json"
    assert "params.yaml" in body["text"], "the message of the error"


def test_a_run_whose_worker_was_killed_is_marked_and_the_next_one_starts(
    site: Site, received: tuple[str, list[dict[str, Any]]], tmp_path: Path
) -> None:
    workspace = chain_runs.make_tiny(tmp_path / "waits")
    graph = workspace / "dvc.yaml"
    graph.write_text(graph.read_text().replace("stages:\n", f"stages:\n{WAIT}", 1))
    run = site.start("nightly", workspace=str(workspace))
    heartbeats = {"filter": {"event": {"name": ["prefect.flow-run.heartbeat"]}, "resource": {"id": [f"prefect.flow-run.{run}"]}}}
    assert chain_runs.wait_for(lambda: site.request("/events/filter", heartbeats)["total"] > 0, interval_s=1), site.worker_log.read_text()
    assert chain_runs.wait_for(lambda: chain_runs.stages_in(workspace)), site.worker_log.read_text()[-3000:]
    assert site.state(run) == "RUNNING"
    assert site.worker is not None
    # The whole host is gone: worker, flow and stages.
    killed = [*psutil.Process(site.worker.pid).children(recursive=True), psutil.Process(site.worker.pid)]
    for process in killed:
        os.kill(process.pid, signal.SIGKILL)
    site.worker.wait()
    assert site.state(run) == "RUNNING", "nobody has reported its end"
    assert site.wait_for_end(run) == "CRASHED"
    assert site.request(f"/flow_runs/{run}")["state"]["message"] == "no sign of life for 90 s: the worker or its host is gone"
    assert chain_runs.wait_for(lambda: arrived(received, run, "Crashed"), interval_s=0.5), site.log.read_text()[-3000:]
    assert chain_runs.wait_for(lambda: not chain_runs.stages_in(workspace))
    site.start_worker()
    following = site.start("nightly", workspace=str(tmp_path))
    assert site.wait_for_end(following) == "FAILED", "it has run: the one run that the deployment allows was free again"
