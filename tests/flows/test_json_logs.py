"""`COAT_LOG=json coat run`: nothing but lines of JSON, each with the id of the run that Prefect has recorded."""

from __future__ import annotations

import json
import shutil

import pytest
import yaml

from coat_core import logs
from tests.testing import chain_runs
from tests.testing.chain_runs import Finished

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
STAGE = "score@qwen2_audio-coat-0"


def test_every_line_of_a_run_is_json_with_the_id_of_the_run(finished: Finished) -> None:
    workspace = finished.workspace
    chain_runs.run_chain(workspace)  # An earlier test of this workspace may have left stages to run.
    recorded = yaml.safe_load((workspace / "dvc.lock").read_text())
    del recorded["stages"][STAGE]
    (workspace / "dvc.lock").write_text(yaml.safe_dump(recorded, sort_keys=False))
    shutil.rmtree(workspace.parent / f"{workspace.name}-cache/runs", ignore_errors=True)
    lines = [json.loads(line) for line in chain_runs.run_chain(workspace, COAT_LOG="json").splitlines()]
    assert all(set(logs.KEYS) <= line.keys() for line in lines)
    (run,) = {line["run"] for line in lines}
    assert run.replace("-", "") in {row.replace("-", "") for row in chain_runs.flow_runs(workspace)}
    events = [(line["event"], line["stage"]) for line in lines]
    for wanted in ("stage_started", "command_started", "command_completed", "stage_completed"):
        assert events.count((wanted, STAGE)) == 1
    assert [line["message"] for line in lines if line["event"] == "log" and line["stage"]] == []
    identity = json.loads((workspace / "runs/qwen2_audio-coat-0/run.json").read_text())["run_id"]
    assert {line["mlflow_run"] for line in lines if line["event"].startswith("command_")} == {identity}
    (completed,) = [line for line in lines if line["event"] == "stage_completed" and line["stage"] == STAGE]
    assert (completed["mlflow_run"], completed["done"], completed["total"]) == (identity, 1, 2)
    assert lines[-1]["event"] == "run_completed"
    assert [decision["decision"] for decision in lines[-1]["decisions"]] == ["unchanged"]
    assert STAGE in lines[-1]["stages"]


def test_a_run_that_fails_ends_with_one_line(finished: Finished) -> None:
    flow = chain_runs.start_chain(finished.workspace, COAT_LOG="json", MLFLOW_TRACKING_URI="postgresql://ada:geheim@127.0.0.1:9/db")
    assert flow.wait(chain_runs.HANG_S) == 1
    text = (finished.workspace / "coat-run.log").read_text()
    assert "geheim" not in text
    (line,) = [json.loads(part) for part in text.splitlines()]
    assert (line["event"], line["level"], line["run"]) == ("failed", "ERROR", None)
    assert line["error"]["class"] == "RegistryError"
