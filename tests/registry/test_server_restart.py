"""An MLflow server on PostgreSQL that is killed and started again in the middle of a training and of a registration."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from coat_core.registry import database
from coat_core.registry.releases import register_trial
from coat_core.registry.tracking import MlflowTracker
from coat_core.storage import write_json
from tests.registry.conftest import NAME
from tests.testing.mlflow_server import TrackingServer
from tests.testing.postgres import PostgresServer, running
from tests.testing.services import needs_postgres

pytestmark = [needs_postgres, pytest.mark.slow]


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
