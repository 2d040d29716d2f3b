from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from coat_core.registry.tracking import MlflowTracker, close_dead_runs, open_tracker
from coat_core.training.tracker import Tracker

ROOT = Path(__file__).resolve().parents[2]


def make(workspace: Path, **changes: Any) -> MlflowTracker:
    return MlflowTracker(workspace, **{"experiment": "coat-x", "stage_key": "k", "sampling_s": None, **changes})


def steps(client: Any, run_id: str, key: str = "loss") -> list[int]:
    return [metric.step for metric in client.get_metric_history(run_id, key)]


def test_a_run_records_parameters_data_and_metrics(workspace: Path, client: Any) -> None:
    tracker: Tracker = make(workspace)
    tracker.start("qwen2_audio-coat-0", tags={"arm": "coat"})
    tracker.log_params({"lora.rank": 16, "thinking.placement": "before_answer", "seed": 0, "secret.key": "x", "path": "/home"})
    tracker.log_params({"lora.rank": 16})
    tracker.log_inputs({"examples": "a" * 64, "features/pitch": "b" * 64})
    for step in (1, 2):
        tracker.log_metrics(step, {"loss": 1.0 / step, "experts/pitch": 0.5})
    described = tracker.describe()
    assert tracker.last_step == 2
    tracker.finish("finished")

    run = client.get_run(described["run_id"])
    assert described == {"run_id": run.info.run_id, "experiment": "coat-x", "tracking_uri": "sqlite:///mlflow.db"}
    assert (run.info.status, run.info.run_name) == ("FINISHED", "qwen2_audio-coat-0")
    assert run.data.params == {"lora.rank": "16", "thinking.placement": "before_answer", "seed": "0"}
    assert run.data.metrics == {"loss": 0.5, "experts/pitch": 0.5}
    assert (run.data.tags["arm"], run.data.tags["stage_key"]) == ("coat", "k")
    inputs = {item.dataset.name: item.dataset for item in run.inputs.dataset_inputs}
    assert inputs["examples"].digest == "a" * 32
    assert "b" * 64 in inputs["features/pitch"].source


def test_runs_that_start_together_record_the_same_data(workspace: Path, client: Any) -> None:
    """MLflow itself raises an error in one of them: a unique constraint on its table of datasets."""
    trackers = [make(workspace) for _ in range(6)]
    for number, tracker in enumerate(trackers):
        tracker.start(f"run-{number}")
    together = threading.Barrier(len(trackers), timeout=1800)

    def record(tracker: MlflowTracker) -> None:
        for digit in "abcdef":
            together.wait()
            tracker.log_inputs({"examples": digit * 64})

    with ThreadPoolExecutor(len(trackers)) as pool:
        list(pool.map(record, trackers))
    for tracker in trackers:
        assert len(client.get_run(tracker.run_id).inputs.dataset_inputs) == 6
        tracker.finish("finished")


def test_a_resumed_run_continues_the_same_run_and_records_no_step_twice(workspace: Path, client: Any) -> None:
    first = make(workspace)
    first.start("run")
    for step in (1, 2, 3, 4):
        first.log_metrics(step, {"loss": 1.0, "rate": 0.1})
    run_id = first.run_id
    client.set_terminated(run_id, status="KILLED")

    second = make(workspace)
    second.start("run", run_id=run_id)
    assert second.run_id == run_id
    assert second.last_step == 4
    assert client.get_run(run_id).info.status == "RUNNING"
    for step in (3, 4, 5, 6):
        second.log_metrics(step, {"loss": 1.0, "rate": 0.1})
    second.finish("finished")
    assert steps(client, run_id) == steps(client, run_id, "rate") == [1, 2, 3, 4, 5, 6]
    assert client.get_run(run_id).info.status == "FINISHED"


def test_evaluation_and_system_metrics_do_not_count_as_steps(workspace: Path, client: Any) -> None:
    tracker = make(workspace)
    tracker.start("run")
    tracker.log_metrics(2, {"loss": 1.0})
    client.log_metric(tracker.run_id, "system/cpu_utilization_percentage", 10.0, step=99)
    client.log_metric(tracker.run_id, "evaluation/mean_accuracy", 0.5, step=50)
    again = make(workspace)
    again.start("run", run_id=tracker.run_id)
    assert again.last_step == 2


@pytest.mark.parametrize("forgotten", ["never-known", "deleted"])
def test_an_unknown_or_deleted_run_is_replaced_by_a_new_one(workspace: Path, client: Any, forgotten: str) -> None:
    run_id = "0" * 32
    if forgotten == "deleted":
        tracker = make(workspace)
        tracker.start("run")
        run_id = tracker.run_id
        client.delete_run(run_id)
    again = make(workspace)
    again.start("run", run_id=run_id)
    assert again.run_id != run_id
    assert again.last_step == 0


def test_system_metrics_are_sampled(workspace: Path, client: Any) -> None:
    tracker = make(workspace, sampling_s=0.2)
    tracker.start("run")
    until = time.monotonic() + 1800
    while not any(key.startswith("system/cpu") for key in client.get_run(tracker.run_id).data.metrics) and time.monotonic() < until:
        time.sleep(0.1)
    metrics = client.get_run(tracker.run_id).data.metrics
    tracker.finish("finished")
    assert {"system/cpu_utilization_percentage", "system/system_memory_usage_megabytes"} <= set(metrics)


@pytest.mark.parametrize(("error", "status"), [(RuntimeError, "FAILED"), (KeyboardInterrupt, "KILLED"), (None, "FINISHED")])
def test_an_open_run_is_closed_with_the_status_of_the_block(
    workspace: Path, client: Any, error: type[BaseException] | None, status: str
) -> None:
    def body() -> str:
        with open_tracker(workspace, experiment="coat-x", run_name="trial", stage_key="k") as tracker:
            tracker.start()
            seen.append(tracker.run_id)
            if error:
                raise error
        return tracker.run_id if tracker.is_open else ""

    seen: list[str] = []
    if error:
        with pytest.raises(error):
            body()
    else:
        assert body() == ""
    assert client.get_run(seen[0]).info.status == status


ABANDON = """
import os, sys
from pathlib import Path
from coat_core.registry.tracking import MlflowTracker
tracker = MlflowTracker(Path(sys.argv[1]), experiment="coat-x", sampling_s=None)
tracker.start("abandoned")
print(tracker.run_id, flush=True)
os.kill(os.getpid(), 9)
"""


def test_runs_of_dead_processes_are_closed_and_those_of_running_ones_are_not(workspace: Path, client: Any) -> None:
    child = subprocess.run(
        [sys.executable, "-c", ABANDON, str(workspace)],
        capture_output=True,
        text=True,
        check=False,
        timeout=1800,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    dead = child.stdout.strip()
    assert child.returncode == -9, child.stderr
    alive = make(workspace)
    alive.start("alive")
    elsewhere = make(workspace)
    elsewhere.start("elsewhere")
    client.set_tag(elsewhere.run_id, "owner.host", "another-host")
    client.set_tag(elsewhere.run_id, "owner.process", "1:0.00")

    assert client.get_run(dead).info.status == "RUNNING"
    assert close_dead_runs(workspace) == [dead]
    assert client.get_run(dead).info.status == "KILLED"
    assert "gone" in client.get_run(dead).data.tags["closed_by"]
    assert {client.get_run(tracker.run_id).info.status for tracker in (alive, elsewhere)} == {"RUNNING"}
    assert close_dead_runs(workspace) == []
