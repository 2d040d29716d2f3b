"""`coat run` as a user runs it: it completes, runs nothing twice, and resumes after Ctrl-C, SIGTERM and kill -9 with the same bytes."""

from __future__ import annotations

import json
import signal
from collections import Counter
from pathlib import Path

import pytest
import yaml

from flows import dvc
from flows.progress_artifacts import artifact_key
from tests.testing import chain_runs
from tests.testing.chain_runs import Finished

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

MODEL = "coat-qwen2-audio"


def test_a_run_completes_and_promotes(finished: Finished) -> None:
    assert sorted(chain_runs.ran_stages(finished.printed)) == sorted(dvc.read_graph(finished.workspace))
    assert (finished.workspace / "report/report.html").stat().st_size > 1000
    assert "<h2>coat-qwen2-audio version 1: " in (finished.workspace / "report/decisions.html").read_text()
    assert chain_runs.versions(finished.workspace) == {MODEL: [1]}
    assert chain_runs.aliases(finished.workspace)[MODEL, "champion"] == 1
    assert chain_runs.unfinished(finished.workspace) == {}
    assert chain_runs.processes_in(finished.workspace) == []
    assert "Traceback" not in (finished.workspace / ".scratch/prefect/server.log").read_text()


def test_the_run_page_joins_the_stages_by_arrows(finished: Finished) -> None:
    graph = dvc.read_graph(finished.workspace)
    edges = chain_runs.prefect_edges(finished.workspace)
    assert edges == {**dvc.direct_upstream(graph), "promote@qwen2_audio": {"report"}}
    assert edges["train@qwen2_audio-coat-0"] == {name for name in graph if name.startswith("features@")} | {"audio@qwen2_audio"}


def test_the_run_page_has_the_progress_of_every_stage(finished: Finished) -> None:
    graph = dvc.read_graph(finished.workspace)
    assert chain_runs.progress_artifacts(finished.workspace) == sorted((artifact_key(stage), 100.0) for stage in graph)


def test_mlflow_nests_the_trials_below_a_run_with_the_name_of_the_flow_run(finished: Finished) -> None:
    trials = {stage.partition("@")[2] for stage in dvc.read_graph(finished.workspace) if stage.startswith("train@")}
    (name,) = chain_runs.flow_run_names(finished.workspace)
    assert chain_runs.mlflow_parents(finished.workspace) == dict.fromkeys(trials, name)
    assert chain_runs.mlflow_statuses(finished.workspace) == {"FINISHED": len(trials) + 1}


def test_a_second_run_runs_no_stage_and_registers_nothing(finished: Finished) -> None:
    runs_before = chain_runs.mlflow_statuses(finished.workspace)
    artifacts_before = chain_runs.progress_artifacts(finished.workspace)
    printed = chain_runs.run_chain(finished.workspace)
    assert f"0 of {len(dvc.read_graph(finished.workspace))} stages to run" in printed
    assert chain_runs.ran_stages(printed) == []
    assert chain_runs.mlflow_statuses(finished.workspace) == runs_before
    assert chain_runs.progress_artifacts(finished.workspace) == artifacts_before
    assert chain_runs.versions(finished.workspace) == {MODEL: [1]}
    assert json.loads(chain_runs.command("dvc", "status", "--json", workspace=finished.workspace).stdout) == {}


@pytest.mark.parametrize(
    ("sent", "group"),
    [
        pytest.param(signal.SIGINT, True, id="ctrl-c"),
        pytest.param(signal.SIGTERM, False, id="sigterm-to-the-flow"),
        pytest.param(signal.SIGKILL, True, id="kill-9-of-the-group"),
    ],
)
def test_a_stopped_run_leaves_no_stage_behind(finished: Finished, sent: signal.Signals, group: bool) -> None:
    workspace = finished.workspace
    chain_runs.forget_training(workspace)
    flow_runs_before = sum(chain_runs.prefect_states(workspace)["flow_run"].values())
    flow = chain_runs.start_chain(workspace)
    try:
        assert chain_runs.wait_for(lambda: chain_runs.trains(workspace) or flow.poll() is not None), "no train stage started"
        assert flow.poll() is None, (workspace / "coat-run.log").read_text()[-3000:]
        chain_runs.signal_chain(flow, sent, group=group)
        assert chain_runs.wait_for(lambda: not chain_runs.stages_in(workspace)), chain_runs.stages_in(workspace)
        assert flow.wait(chain_runs.HANG_S) == {signal.SIGINT: 130, signal.SIGTERM: 143}.get(sent, -sent)
    finally:
        flow.kill()
        flow.wait()
    assert chain_runs.wait_for(lambda: not chain_runs.processes_in(workspace)), chain_runs.processes_in(workspace)
    assert not list(workspace.glob("models/*")), "the stages were ended, they did not complete"
    states = chain_runs.prefect_states(workspace)["flow_run"]
    assert sum(states.values()) == flow_runs_before + 1
    if sent != signal.SIGKILL:
        # A killed process records nothing; the next run does (the test below).
        assert states["CRASHED"] + states["CANCELLED"] > 0
        assert not chain_runs.UNFINISHED.intersection(states)
    if sent != signal.SIGKILL:
        assert "coat: stopped; completed work is kept, and the same command resumes" in (workspace / "coat-run.log").read_text()


def test_the_next_run_completes_with_the_same_bytes(finished: Finished) -> None:
    """The next run resumes, closes the runs that were left open, and registers nothing twice, whatever stopped the runs before."""
    printed = chain_runs.run_chain(finished.workspace)
    assert any(stage.startswith("train@") for stage in chain_runs.ran_stages(printed))
    assert chain_runs.unfinished(finished.workspace) == {}
    assert chain_runs.mlflow_statuses(finished.workspace)["KILLED"] > 0
    assert chain_runs.fingerprint(finished.workspace) == finished.fingerprint
    assert chain_runs.versions(finished.workspace) == {MODEL: [1]}
    assert json.loads(chain_runs.command("dvc", "status", "--json", workspace=finished.workspace).stdout) == {}


def test_a_failed_stage_is_reported_without_a_traceback(tmp_path: Path) -> None:
    params = yaml.safe_load(chain_runs.PARAMS.read_text())
    params["corpus"] |= {"kind": "recordings", "path": "nowhere"}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    workspace = chain_runs.make_tiny(tmp_path / "failing", tmp_path / "params.yaml")
    flow = chain_runs.start_chain(workspace)
    assert flow.wait(chain_runs.HANG_S) == 1
    printed = (workspace / "coat-run.log").read_text()
    assert "Traceback" not in printed
    others = len(dvc.read_graph(workspace)) - 1
    assert printed.count(f"coat: 1 of {others + 1} stages failed, {others} were left out") == 1
    assert printed.count("nowhere") == 2, "once when it fails, once at the end"
    assert chain_runs.ran_stages(printed) == ["corpus"]
    assert chain_runs.prefect_states(workspace) == {"flow_run": Counter(FAILED=1), "task_run": Counter(FAILED=1, NotReady=others)}
    assert chain_runs.unfinished(workspace) == {}
