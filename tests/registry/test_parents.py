"""Parent runs: the trials of one chain run are the children of one run, which is found again and never created twice."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from coat_core.registry import parents
from coat_core.registry.commit import COMMIT
from coat_core.registry.database import connect, experiment_id
from coat_core.registry.parents import CHAIN, PARENT, ChainRun, find_parent
from coat_core.registry.tracking import MlflowTracker, close_dead_runs, open_tracker
from coat_core.watchdog import host_name
from tests.testing.mlflow_server import TrackingServer

EXPERIMENT = "coat-x"


def train(workspace: Path, name: str, run_id: str | None = None) -> str:
    """Record a training as the stage does, and return the id of its run."""
    with open_tracker(workspace, experiment=EXPERIMENT, run_name=name, stage_key=name) as tracker:
        tracker.start(run_id=run_id)
        return tracker.run_id


def runs_of(client: Any, workspace: Path) -> dict[str, Any]:
    """Return all runs of the experiment by id."""
    return {run.info.run_id: run for run in client.search_runs([experiment_id(client, EXPERIMENT, workspace)])}


def parent_ids(client: Any, workspace: Path) -> list[str]:
    return [identity for identity, run in runs_of(client, workspace).items() if CHAIN in run.data.tags]


def test_the_name_has_workspace_params_and_commit(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(COMMIT, "0123456789abcdef")
    clean = ChainRun.of(workspace)
    assert clean.name == f"workspace, params {clean.params[:8]}, commit 01234567"
    monkeypatch.setenv(COMMIT, "0123456789abcdef-dirty")
    changed = ChainRun.of(workspace)
    assert changed.name == f"{clean.name} with changes"
    (workspace / "params.yaml").unlink()
    missing = ChainRun.of(workspace)
    assert missing.name == "workspace, params missing, commit 01234567 with changes"
    assert len({clean.key, changed.key, missing.key}) == 3


def test_the_trials_of_a_chain_run_have_one_parent(workspace: Path, client: Any) -> None:
    trials = [train(workspace, name) for name in ("a-sft-0", "a-coat-0", "a-coat-1")]
    (parent,) = parent_ids(client, workspace)
    runs = runs_of(client, workspace)
    assert set(runs) == {parent, *trials}
    assert [runs[trial].data.tags[PARENT] for trial in trials] == [parent] * 3
    assert PARENT not in runs[parent].data.tags
    assert (runs[parent].info.run_name, runs[parent].info.status) == (ChainRun.of(workspace).name, "FINISHED")
    tags = runs[parent].data.tags
    assert (tags["workspace"], tags["params_sha256"], tags["mlflow.source.name"]) == ("workspace", ChainRun.of(workspace).params, "coat")
    assert "stage_key" not in tags, "no release is matched with a parent"
    found = client.search_runs([runs[parent].info.experiment_id], f"tags.mlflow.parentRunId = '{parent}'")
    assert {run.info.run_id for run in found} == set(trials)


def test_other_params_have_another_parent_and_the_same_params_the_same(workspace: Path, client: Any) -> None:
    params = workspace / "params.yaml"
    before = params.read_text()
    first = train(workspace, "a-coat-0")
    params.write_text(before + "evaluation: {}\n")
    second = train(workspace, "a-coat-1")
    params.write_text(before)
    third = train(workspace, "a-coat-2")
    runs = runs_of(client, workspace)
    of_first, of_second, of_third = (runs[run].data.tags[PARENT] for run in (first, second, third))
    assert of_first == of_third != of_second
    assert sorted(parent_ids(client, workspace)) == sorted({of_first, of_second})


def test_a_resumed_trial_keeps_the_parent_that_trained_it(workspace: Path, client: Any) -> None:
    run_id = train(workspace, "a-coat-0")
    (parent,) = parent_ids(client, workspace)
    client.set_terminated(run_id, status="KILLED")
    (workspace / "params.yaml").write_text("changed: true\n")
    assert train(workspace, "a-coat-0", run_id) == run_id
    assert client.get_run(run_id).data.tags[PARENT] == parent
    assert set(runs_of(client, workspace)) == {parent, run_id}


def test_a_replayed_run_has_no_parent(workspace: Path, client: Any) -> None:
    """It was not trained by a chain run of this registry; `replay` uses the tracker without a group."""
    tracker = MlflowTracker(workspace, experiment=EXPERIMENT, stage_key="k", sampling_s=None)
    tracker.start("a-coat-0", tags={"replayed": "true"})
    assert list(runs_of(client, workspace)) == [tracker.run_id]
    tracker.finish("finished")


def test_a_deleted_parent_is_replaced(workspace: Path, client: Any) -> None:
    train(workspace, "a-coat-0")
    (old,) = parent_ids(client, workspace)
    client.delete_run(old)
    new = client.get_run(train(workspace, "a-coat-1")).data.tags[PARENT]
    assert parent_ids(client, workspace) == [new] != [old]


def test_a_kill_while_a_parent_is_created_leaves_one_that_is_closed_and_used(workspace: Path, client: Any) -> None:
    experiment = experiment_id(client, EXPERIMENT, workspace)
    gone = {"owner.host": host_name(), "owner.process": "999999999:1.00"}
    chain = ChainRun.of(workspace)
    left = parents._create(client, experiment, chain, gone).info.run_id
    assert client.get_run(left).info.status == "RUNNING"
    assert close_dead_runs(workspace) == [left]
    assert find_parent(client, experiment, workspace, {}) == left
    assert client.get_run(left).info.status == "FINISHED"


def test_trainings_that_start_together_have_one_parent(workspace: Path, client: Any) -> None:
    together = threading.Barrier(6, timeout=1800)

    def start(number: int) -> str:
        together.wait()
        return train(workspace, f"a-coat-{number}")

    with ThreadPoolExecutor(6) as pool:
        trials = list(pool.map(start, range(6)))
    (parent,) = parent_ids(client, workspace)
    assert {client.get_run(trial).data.tags[PARENT] for trial in trials} == {parent}


def test_of_two_hosts_without_a_common_lock_the_later_one_removes_its_own(workspace: Path, client: Any) -> None:
    experiment, chain = experiment_id(client, EXPERIMENT, workspace), ChainRun.of(workspace)

    class Late:
        """A client before whose request another host creates the parent."""

        def __getattr__(self, name: str) -> Any:
            return getattr(client, name)

        def create_run(self, *arguments: Any, **named: Any) -> Any:
            other.append(client.create_run(experiment, start_time=1, tags={CHAIN: chain.key}).info.run_id)
            return client.create_run(*arguments, **named)

    other: list[str] = []
    assert [find_parent(Late(), experiment, workspace, {})] == other == parent_ids(client, workspace)


def test_a_folder_with_a_quote_in_its_name(tmp_path: Path, workspace: Path) -> None:
    folder = workspace.rename(tmp_path / 'it\'s "mine"')
    train(folder, "a-coat-0")
    train(folder, "a-coat-1")
    assert len(parent_ids(connect(folder), folder)) == 1


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_on_a_server_the_trials_of_two_hosts_have_one_parent(tmp_path: Path, workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two workspaces of the same name, params and commit on one server, as two hosts of a team have them."""
    second = tmp_path / "other-host" / workspace.name
    second.mkdir(parents=True)
    (second / "params.yaml").write_text((workspace / "params.yaml").read_text())
    server = TrackingServer(f"sqlite:///{tmp_path / 'server.db'}", tmp_path)
    server.start()
    try:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", server.url)
        trials = [train(folder, f"a-coat-{seed}") for seed, folder in enumerate((workspace, second))]
        client = connect(workspace)
        (parent,) = parent_ids(client, workspace)
        assert {client.get_run(trial).data.tags[PARENT] for trial in trials} == {parent}
        assert client.get_run(parent).info.run_name == ChainRun.of(second).name
    finally:
        server.kill()
