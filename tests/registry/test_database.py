from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from coat_core.errors import RegistryError
from coat_core.registry import database

ROOT = Path(__file__).resolve().parents[2]
FIRST_USE = """
import sys
from pathlib import Path
from coat_core.registry.database import connect, experiment_id
client = connect(Path(sys.argv[1]))
run = client.create_run(experiment_id(client, "coat-x", Path(sys.argv[1])))
client.log_metric(run.info.run_id, "loss", 1.0)
client.set_terminated(run.info.run_id)
"""


@pytest.mark.slow
def test_three_processes_can_create_one_database_at_the_same_time(tmp_path: Path) -> None:
    environment = {key: value for key, value in os.environ.items() if key != "MLFLOW_TRACKING_URI"} | {"PYTHONPATH": str(ROOT)}
    children = [
        subprocess.Popen([sys.executable, "-c", FIRST_USE, str(tmp_path)], env=environment, stderr=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    errors = [child.communicate(timeout=1800)[1] for child in children]
    assert [child.returncode for child in children] == [0, 0, 0], errors
    client = database.connect(tmp_path)
    assert len([e for e in client.search_experiments() if e.name == "coat-x"]) == 1
    runs = client.search_runs([database.experiment_id(client, "coat-x", tmp_path)])
    assert [run.data.metrics for run in runs] == [{"loss": 1.0}] * 3
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert not list(tmp_path.glob(".mlflow.db*")), "the temporary file is removed"


def test_a_database_appears_only_when_it_is_complete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / ".mlflow.db.new").write_text("left by a killed process")

    class Killed(BaseException):
        pass

    def replace(self: Path, target: Path) -> Path:
        raise Killed

    monkeypatch.setattr(Path, "replace", replace)
    with pytest.raises(Killed):
        database.tracking_uri(tmp_path)
    assert not (tmp_path / "mlflow.db").exists()


def test_with_a_tracking_server_no_database_is_created(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    assert database.tracking_uri(tmp_path) == "http://127.0.0.1:9"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", ["", "not a database"])
def test_a_broken_database_is_an_error_and_is_not_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "mlflow.db").write_text(content)
    with pytest.raises(RegistryError, match="is not an MLflow database"):
        database.tracking_uri(tmp_path)
    assert (tmp_path / "mlflow.db").read_text() == content


def test_the_artifacts_of_a_moved_workspace_are_found(workspace: Path, client: Any, tmp_path: Path) -> None:
    run = client.create_run(database.experiment_id(client, "coat-x", workspace))
    (tmp_path / "note.txt").write_text("here")
    client.log_artifact(run.info.run_id, str(tmp_path / "note.txt"))
    moved = tmp_path / "moved"
    shutil.move(workspace, moved)
    again = database.connect(moved)
    assert again.get_run(run.info.run_id).info.artifact_uri.startswith(str(moved))
    assert Path(again.download_artifacts(run.info.run_id, "note.txt")).read_text() == "here"
    assert again.get_experiment_by_name("coat-x").artifact_location == str(moved / "mlartifacts")
    shutil.move(moved, workspace)
    assert database.connect(workspace).get_run(run.info.run_id).info.artifact_uri.startswith(str(workspace))


_KILLED = """
import os, signal, sqlite3, sys

database = sqlite3.connect(sys.argv[1], isolation_level=None)
# A small cache is written to the file before the transaction ends, and the journal before that.
database.execute("PRAGMA cache_size = 1")
database.execute("BEGIN IMMEDIATE")
database.execute("UPDATE experiments SET artifact_location = 'wrong'")
database.execute("CREATE TABLE filler (text)")
database.executemany("INSERT INTO filler VALUES (?)", [("x" * 4000,)] * 200)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_transaction_that_was_killed_is_rolled_back(tmp_path: Path) -> None:
    location = database.connect(tmp_path).get_experiment("0").artifact_location
    subprocess.run([sys.executable, "-c", _KILLED, tmp_path / "mlflow.db"], check=False)
    assert (tmp_path / "mlflow.db-journal").stat().st_size > 0
    database._relocate.cache_clear()
    assert database.connect(tmp_path).get_experiment("0").artifact_location == location
