"""An MLflow server on PostgreSQL that is killed and started again in the middle of a training and of a registration."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from coat_core.registry import database
from coat_core.registry.releases import register_trial
from coat_core.registry.tracking import MlflowTracker
from coat_core.servers import free_port, wait_until_up
from coat_core.storage import write_json
from tests.registry.conftest import NAME
from tests.testing.chain_runs import HANG_S, environment
from tests.testing.postgres import PostgresServer, needs_postgres, running

pytestmark = [needs_postgres, pytest.mark.slow]


class TrackingServer:
    """`mlflow server` on a database, which can be killed and started again at the same address."""

    def __init__(self, uri: str, folder: Path) -> None:
        self.port, self.folder, self._uri = free_port(), folder, uri
        self.url = f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        options = (
            "--host",
            "127.0.0.1",
            "--port",
            str(self.port),
            "--workers",
            "1",
            "--artifacts-destination",
            str(self.folder / "artifacts"),
        )
        variables = {
            "MLFLOW_BACKEND_STORE_URI": self._uri, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true",
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        }  # fmt: skip
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "mlflow", "server", *options], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True, env=environment(**variables),
            )  # fmt: skip
        assert wait_until_up(self._process, f"{self.url}/health", limit_s=HANG_S), (self.folder / "log").read_text()[-3000:]

    def kill(self) -> None:
        assert self._process is not None
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgresServer]:
    with running() as server:
        yield server


@pytest.fixture(scope="module")
def server(postgres: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TrackingServer]:
    made = TrackingServer(postgres.create("mlflow"), tmp_path_factory.mktemp("server"))
    made.start()
    yield made
    made.kill()


def test_nothing_is_lost_or_doubled(
    postgres: PostgresServer,
    server: TrackingServer,
    workspace: Path,
    add_trial: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.url)
    # A start takes longer on a busy machine than the half minute that `coat` waits.
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "10")
    trial = add_trial()
    tracker = MlflowTracker(workspace, experiment=NAME, sampling_s=None)
    tracker.start(trial)
    for step in (1, 2, 3):
        tracker.log_metrics(step, {"loss": 1.0 / step})
    server.kill()
    with ThreadPoolExecutor(1) as pool:
        started = pool.submit(server.start)
        for step in (4, 5, 6):
            tracker.log_metrics(step, {"loss": 1.0 / step})
        started.result()
    postgres.kill()
    postgres.start()
    for step in (7, 8):
        tracker.log_metrics(step, {"loss": 1.0 / step})
    tracker.log_release(workspace / "models" / trial)
    write_json(workspace / "runs" / trial / "run.json", tracker.describe())
    run_id = tracker.run_id
    tracker.finish("finished")

    server.kill()
    with ThreadPoolExecutor(1) as pool:
        started = pool.submit(server.start)
        made = register_trial(workspace, NAME, trial)
        started.result()
    assert (made.version, made.run_id) == ("1", run_id)
    assert not register_trial(workspace, NAME, trial).created

    client = database.connect(workspace)
    assert [metric.step for metric in client.get_metric_history(run_id, "loss")] == list(range(1, 9))
    experiment = client.get_run(run_id).info.experiment_id
    assert [(run.info.run_id, run.info.status) for run in client.search_runs([experiment])] == [(run_id, "FINISHED")]
    assert [str(version.version) for version in client.search_model_versions(f"name='{NAME}'")] == ["1"]
    assert len(client.search_logged_models([experiment])) == 1
