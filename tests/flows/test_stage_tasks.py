"""The stages as Prefect tasks, with a few shell commands in place of DVC: failures, retries, skipped stages and arrows."""

from __future__ import annotations

import contextvars
import json
import logging
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId, FlowRunFilter, FlowRunFilterId
from prefect.client.schemas.objects import Artifact
from prefect.testing.utilities import prefect_test_harness

from coat_core.errors import StageError
from coat_core.pipeline.runner import OUTCOMES
from coat_core.settings import Settings, parse_settings
from flows import chain, dvc
from tests.testing.chain_runs import HANG_S, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

GRAPH = {
    "corpus": frozenset[str](),
    "features@a": frozenset({"corpus"}),
    "features@b": frozenset({"corpus"}),
    "train@x": frozenset({"corpus", "features@a"}),
    "train@y": frozenset({"features@b"}),
    "report": frozenset({"train@x", "train@y"}),
}


@pytest.fixture(scope="module")
def server() -> Iterator[None]:
    with prefect_test_harness(server_startup_timeout=int(HANG_S)):
        yield


class Chain:
    """Runs the graph above; a stage appends its name to `ran` and fails as often as `failures` states."""

    def __init__(self, workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.workspace = workspace
        self.failures: dict[str, tuple[int, bool]] = {}
        """For each failing stage: how often it fails, and whether its outcome is retryable."""
        self.settings: Settings = parse_settings(yaml.safe_load((Path(__file__).parents[2] / "params.yaml").read_text()))
        self.flow_run: Any = None
        monkeypatch.setattr(dvc, "read_graph", lambda _: GRAPH)
        monkeypatch.setattr(dvc, "read_stale", lambda _: frozenset({"corpus"}))
        monkeypatch.setattr(dvc, "reproduce_command", self.command)
        monkeypatch.setattr(chain, "run_stage", chain.run_stage.with_options(retry_delay_seconds=0))
        chain._processes.open()

    def command(self, stage: str) -> list[str]:
        times, retryable = self.failures.get(stage, (0, False))
        outcome = {"class": "OSError", "message": f"{stage} broke", "retryable": retryable, "detail": ""}
        script = (
            "import json, pathlib, sys\n"
            "with open('ran', 'a') as ran: print(sys.argv[1], file=ran)\n"
            "if pathlib.Path('ran').read_text().split().count(sys.argv[1]) <= int(sys.argv[2]):\n"
            "    path = pathlib.Path(sys.argv[3]); path.parent.mkdir(parents=True, exist_ok=True); path.write_text(sys.argv[4])\n"
            "    sys.exit(1)\n"
        )
        return [sys.executable, "-c", script, stage, str(times), str(OUTCOMES / f"{stage}.json"), json.dumps(outcome)]

    def run(self, jobs: int = 2) -> dict[str, float]:
        @flow(name="stages", validate_parameters=False, persist_result=False)
        def stages() -> dict[str, float]:
            from prefect.runtime import flow_run

            self.flow_run = flow_run.id
            return chain._run_stale(self.workspace, jobs, self.settings)[0]

        return stages()

    def ran(self) -> Counter[str]:
        return Counter((self.workspace / "ran").read_text().split())

    def states(self) -> dict[str, str]:
        """Return the recorded state of every task run; they arrive as events."""
        with get_client(sync_client=True) as client:
            runs = FlowRunFilter(id=FlowRunFilterId(any_=[self.flow_run]))

            def read() -> dict[str, str]:
                return {run.name: run.state_name or "" for run in client.read_task_runs(flow_run_filter=runs)}

            assert wait_for(lambda: set(read()) == set(GRAPH) and not {"Running", "Pending", "AwaitingRetry"} & set(read().values()))
            return read()

    def artifacts(self) -> dict[str, Artifact]:
        """Return the artifacts of the flow run by the name of their task run."""
        with get_client(sync_client=True) as client:
            runs = FlowRunFilter(id=FlowRunFilterId(any_=[self.flow_run]))
            names = {run.id: run.name for run in client.read_task_runs(flow_run_filter=runs)}
            found = client.read_artifacts(artifact_filter=ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[self.flow_run])))
            return {names[artifact.task_run_id]: artifact for artifact in found if artifact.task_run_id in names}


@pytest.fixture
def stages(server: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Chain:
    return Chain(tmp_path, monkeypatch)


def test_every_stage_runs_once_after_its_upstream_stages(stages: Chain) -> None:
    assert set(stages.run()) == set(GRAPH)
    order = (stages.workspace / "ran").read_text().split()
    assert sorted(order) == sorted(GRAPH)
    assert all(order.index(other) < order.index(name) for name, upstream in GRAPH.items() for other in upstream)
    assert set(stages.states().values()) == {"Completed"}


def test_a_failure_skips_its_descendants_only_and_is_reported_once(stages: Chain, caplog: pytest.LogCaptureFixture) -> None:
    stages.failures["features@a"] = (9, False)
    with caplog.at_level(logging.ERROR, "prefect.flow_runs"), pytest.raises(StageError, match="1 of 6 stages failed, 2 were left out"):
        stages.run()
    assert stages.ran() == Counter(["corpus", "features@a", "features@b", "train@y"]), "once each: the outcome is not retryable"
    states = stages.states()
    assert states == {**dict.fromkeys(GRAPH, "Completed"), "features@a": "Failed", "train@x": "NotReady", "report": "NotReady"}
    messages = [record.getMessage() for record in caplog.records if record.name == "prefect.flow_runs"]
    (reported,) = [message for message in messages if message.startswith("features@a failed")]
    assert reported.startswith("features@a failed; 2 stages depend on it and are left out: features@a: OSError: features@a broke; log:")


def test_a_retryable_failure_is_repeated(stages: Chain) -> None:
    stages.failures["features@b"] = (1, True)
    assert set(stages.run()) == set(GRAPH)
    assert stages.ran()["features@b"] == 2


def test_the_run_page_shows_the_progress_of_each_stage_that_runs(stages: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    """`train@x` reports 3 of 10 steps and waits until the page shows them; `report` is skipped as DVC does it: it writes no outcome."""
    script = (
        "import json, os, pathlib, sys, time\n"
        "name, outcome = sys.argv[1], pathlib.Path(sys.argv[2])\n"
        "if name == 'report': sys.exit()\n"
        "if name == 'train@x':\n"
        "    from coat_core.progress import ProgressBar\n"
        "    bar = ProgressBar(total=10, desc='training', unit='step', disable=True)\n"
        "    bar.note(loss=0.5); bar.update(3); bar._record(last=True)\n"
        "    while not pathlib.Path('shown').exists(): time.sleep(0.1)\n"
        "outcome.parent.mkdir(parents=True, exist_ok=True); outcome.write_text('{}')\n"
    )
    monkeypatch.setattr(dvc, "reproduce_command", lambda name: [sys.executable, "-c", script, name, str(OUTCOMES / f"{name}.json")])
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    seen = list[Artifact]()

    def shown() -> bool:
        artifact = stages.artifacts().get("train@x") if stages.flow_run else None
        seen.extend([artifact] if artifact else [])
        return bool(seen)

    def watch() -> None:
        wait_for(shown, interval_s=0.5)
        (stages.workspace / "shown").touch()

    watcher = threading.Thread(target=contextvars.copy_context().run, args=(watch,))
    watcher.start()
    try:
        stages.run()
    finally:
        watcher.join()
    assert (seen[0].type, seen[0].key, seen[0].data) == ("progress", "progress-train-x", 30.0)
    assert (seen[0].description or "").startswith("training  step 3/10  30%  loss 0.500")
    assert set(stages.states().values()) == {"Completed"}
    artifacts = stages.artifacts()
    assert {name: artifact.data for name, artifact in artifacts.items()} == dict.fromkeys(set(GRAPH) - {"report"}, 100.0)
    assert artifacts["train@x"].id == seen[0].id
    assert (artifacts["corpus"].description or "").startswith("corpus  completed in ")


def test_retries_end(stages: Chain) -> None:
    stages.failures["features@b"] = (9, True)
    with pytest.raises(StageError, match="OSError: features@b broke"):
        stages.run()
    assert stages.ran()["features@b"] == 3


def test_dvc_that_fails_on_a_full_disk_after_a_stage_is_one_message(stages: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    """The stage itself has completed; DVC has no room for its outputs in the cache. There is room at the second attempt."""
    calls = []

    def command(stage: str) -> list[str]:
        if stage != "features@b":
            return stages.command(stage)
        calls.append(stage)
        script = (
            "import json, pathlib, sys\n"
            "path = pathlib.Path(sys.argv[1]); path.parent.mkdir(parents=True, exist_ok=True)\n"
            "path.write_text(json.dumps({'class': 'ok', 'message': '', 'retryable': False, 'detail': ''}))\n"
            "sys.exit('ERROR: unexpected error - [Errno 28] No space left on device: cache' if sys.argv[2] == '1' else 0)\n"
        )
        return [sys.executable, "-c", script, str(OUTCOMES / f"{stage}.json"), str(len(calls))]

    monkeypatch.setattr(dvc, "reproduce_command", command)
    assert set(stages.run()) == set(GRAPH)
    assert len(calls) == 2

    def always(stage: str) -> list[str]:
        calls.clear()
        return command(stage)

    monkeypatch.setattr(dvc, "reproduce_command", always)
    with pytest.raises(StageError, match=r"features@b: DiskFullError: the disk is full: .* free at .*; next step: free space"):
        stages.run()


def test_nothing_starts_once_the_run_is_stopped(stages: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    """The flow's thread gets the interrupt while a stage runs: that stage is ended, and the waiting ones give up."""
    monkeypatch.setattr(dvc, "reproduce_command", lambda name: ["sh", "-c", f"echo {name} >> ran; sleep 3600"])

    def interrupt(futures: list[Any]) -> Iterator[Any]:
        assert wait_for(lambda: (stages.workspace / "ran").exists())
        raise KeyboardInterrupt
        yield

    monkeypatch.setattr(chain, "as_completed", interrupt)

    @flow(name="stopped", validate_parameters=False, persist_result=False)
    def stopped() -> None:
        from prefect.runtime import flow_run

        stages.flow_run = flow_run.id
        try:
            chain._run_stale(stages.workspace, 2, stages.settings)
        except BaseException:
            chain._processes.end_all()
            raise

    with pytest.raises(KeyboardInterrupt):
        stopped()
    assert stages.ran() == Counter(["corpus"])
    assert stages.states() == {**dict.fromkeys(GRAPH, "NotReady"), "corpus": "Cancelled"}
