"""The deployments of `prefect.yaml` on a real Prefect server with a real process worker, all on loopback."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from coat_core.pipeline.workspace import repository_root
from flows.server import free_port
from tests.testing import chain_runs
from tests.testing.chain_runs import Finished

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

ENDED = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")


@dataclass(frozen=True)
class Site:
    """A Prefect server with its worker."""

    url: str
    log: Path
    worker_log: Path
    environment: dict[str, str]

    def request(self, path: str, body: dict[str, Any] | None = None) -> Any:
        """Call the server's REST API; with a body the method is POST."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.url}{path}", data, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=chain_runs.HANG_S) as response:
            return json.loads(response.read())

    def state(self, run: UUID | str) -> str:
        """Return the state type of a flow run."""
        return str(self.request(f"/flow_runs/{run}")["state_type"])

    def start(self, deployment: str, **parameters: Any) -> str:
        """Start a run of a deployment and return its id."""
        found = self.request(f"/deployments/name/coat/{deployment}")
        body = {"parameters": parameters, "state": {"type": "SCHEDULED"}}
        return str(self.request(f"/deployments/{found['id']}/create_flow_run", body)["id"])


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    home = tmp_path_factory.mktemp("prefect")
    port = free_port()
    url = f"http://127.0.0.1:{port}/api"
    environment = chain_runs.environment(
        PREFECT_HOME=str(home),
        PREFECT_API_URL=url,
        PREFECT_API_DATABASE_CONNECTION_URL=f"sqlite+aiosqlite:///{home / 'prefect.db'}",
        PREFECT_SERVER_ANALYTICS_ENABLED="false",
        PREFECT_WORKER_QUERY_SECONDS="1",
        PREFECT_CLI_PROMPT="false",
        COAT_HOME=str(repository_root()),
    )
    started: list[subprocess.Popen[bytes]] = []

    def start(log: Path, *arguments: str) -> None:
        with log.open("wb") as stream:
            streams = {"stdin": subprocess.DEVNULL, "stdout": stream, "stderr": stream}
            started.append(subprocess.Popen(arguments, cwd=repository_root(), env=environment, start_new_session=True, **streams))

    made = Site(url, home / "server.log", home / "worker.log", environment)
    try:
        start(made.log, sys.executable, "-m", "flows.server", "--port", str(port))
        assert chain_runs.wait_for(lambda: _is_healthy(url), interval_s=0.3), made.log.read_text()[-3000:]
        _prefect(environment, "work-pool", "create", "coat", "--type", "process")
        # The host that deploys has no COAT_HOME: each worker has its own.
        _prefect({name: value for name, value in environment.items() if name != "COAT_HOME"}, "--no-prompt", "deploy", "--all")
        start(made.worker_log, str(chain_runs.BIN / "prefect"), "worker", "start", "--pool", "coat", "--type", "process", "--limit", "1")
        yield made
    finally:
        for process in reversed(started):
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def test_the_nightly_deployment_is_scheduled(site: Site) -> None:
    nightly = site.request("/deployments/name/coat/nightly")
    assert [schedule["schedule"]["cron"] for schedule in nightly["schedules"]] == ["0 2 * * *"]
    filters = {"deployments": {"id": {"any_": [nightly["id"]]}}, "flow_runs": {"state": {"type": {"any_": ["SCHEDULED"]}}}}
    assert chain_runs.wait_for(lambda: site.request("/flow_runs/count", filters) > 0, interval_s=1)


def test_a_worker_runs_the_manual_deployment(site: Site, finished: Finished) -> None:
    run = site.start("manual", workspace=str(finished.workspace))
    assert chain_runs.wait_for(lambda: site.state(run) in ENDED, interval_s=0.5), site.worker_log.read_text()[-5000:]
    assert site.state(run) == "COMPLETED", site.worker_log.read_text()[-5000:]
    artifacts = site.request("/artifacts/filter", {"artifacts": {"flow_run_id": {"any_": [run]}}})
    shown = {artifact["key"]: artifact["data"] for artifact in artifacts}
    assert shown.keys() >= {"contract", "metrics", "decisions"}
    assert shown["contract"].startswith("# Data contract: is met\n\n0 rows quarantined.")


def test_a_cancelled_run_ends_its_stages(site: Site, finished: Finished) -> None:
    chain_runs.forget_training(finished.workspace)
    run = site.start("manual", workspace=str(finished.workspace))
    assert chain_runs.wait_for(lambda: chain_runs.trains(finished.workspace)), site.worker_log.read_text()[-5000:]
    site.request(f"/flow_runs/{run}/set_state", {"state": {"type": "CANCELLING"}})
    assert chain_runs.wait_for(lambda: not chain_runs.stages_in(finished.workspace)), chain_runs.stages_in(finished.workspace)
    assert not list(finished.workspace.glob("models/*")), "the stages were ended, they did not complete"
    assert chain_runs.wait_for(lambda: site.state(run) in ENDED, interval_s=0.3)
    assert site.state(run) == "CANCELLED"


def test_the_servers_log_has_no_traceback(site: Site) -> None:
    # SQLite refuses at once, whatever the timeout, a reader that becomes a writer: a heartbeat of the worker may be lost; the next one
    # follows after 30 s. Nothing else may fail.
    records = re.split(r"^(?=\d\d:\d\d:\d\d\.\d+ \| )", site.log.read_text(), flags=re.M)
    lost_heartbeat = ("heartbeat persistence failed", "database is locked")
    assert not [record for record in records if "Traceback" in record and not all(part in record for part in lost_heartbeat)]
    assert "Traceback" not in site.worker_log.read_text()


def _prefect(environment: dict[str, str], *arguments: str) -> None:
    done = subprocess.run(
        [chain_runs.BIN / "prefect", *arguments],
        cwd=repository_root(),
        env=environment,
        capture_output=True,
        text=True,
        timeout=chain_runs.HANG_S,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def _is_healthy(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=2):
            return True
    except OSError:
        return False
