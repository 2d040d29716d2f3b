"""A tiny workspace from outside: `coat run` as a user starts it, its processes, and the records in DVC, MLflow and Prefect."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import psutil
import yaml

from coat_core.pipeline.workspace import make_workspace, repository_root
from coat_core.storage import sha256_file
from coat_core.watchdog import OWNER

PARAMS = repository_root() / "params/tiny.yaml"
BIN = Path(sys.executable).parent
DETERMINISTIC = ("data/corpus", "data/accepted.jsonl", "data/quarantine.jsonl", "features", "audio", "models", "responses", "evaluation")
"""Outputs that are byte-equal from run to run; the others are records."""
UNFINISHED = frozenset({"RUNNING", "PENDING", "CANCELLING", "SCHEDULED"})
HANG_S = 1800.0
"""Limit for everything that is waited for: it only ends a test that hangs."""


@dataclass(frozen=True)
class Finished:
    """A workspace in which the chain has completed once."""

    workspace: Path
    printed: str
    fingerprint: dict[str, str]


def make_tiny(folder: Path, params: Path = PARAMS) -> Path:
    """Create a small workspace with its own DVC cache, so that nothing comes from an earlier run."""
    made = make_workspace(folder, params)
    command("dvc", "config", "--local", "cache.dir", str(folder.parent / f"{folder.name}-cache"), workspace=made)
    return made


def environment(**extra: str) -> dict[str, str]:
    """Return the environment of a user without settings for Prefect, MLflow, pytest or this package."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "MLFLOW_", "COAT_", "PYTEST_"))}
    return {**kept, "DVC_NO_ANALYTICS": "true", "DO_NOT_TRACK": "true", **extra}


def command(name: str, *arguments: str, workspace: Path, timeout_s: float = HANG_S, **extra: str) -> subprocess.CompletedProcess[str]:
    """Run an installed command in a workspace; it must succeed."""
    done = subprocess.run(
        [BIN / name, *arguments], cwd=workspace, capture_output=True, text=True, timeout=timeout_s, env=environment(**extra)
    )
    assert done.returncode == 0, f"{name} {' '.join(arguments)}: {done.stdout[-3000:]}{done.stderr[-3000:]}"
    return done


def start_chain(workspace: Path, **extra: str) -> subprocess.Popen[bytes]:
    """Start `coat run` in its own process group, with its output in `coat-run.log`, and with further environment variables.

    A shell's background job ignores SIGINT, and its children inherit that: the default handler is restored first.
    """
    code = "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); os.execv(sys.argv[1], sys.argv[1:])"
    with (workspace / "coat-run.log").open("wb") as log:
        streams = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": log}
        arguments = [sys.executable, "-c", code, BIN / "coat", "run"]
        return subprocess.Popen(arguments, cwd=workspace, start_new_session=True, env=environment(**extra), **streams)


def run_chain(workspace: Path, timeout_s: float = HANG_S, **extra: str) -> str:
    """Run `coat run` to its end, with further environment variables, and return its output; it must succeed."""
    flow = start_chain(workspace, **extra)
    try:
        flow.wait(timeout_s)
    finally:
        flow.kill()
        flow.wait()
    printed = (workspace / "coat-run.log").read_text()
    assert flow.returncode == 0, printed[-5000:]
    return printed


def wait_for(condition: Callable[[], object], seconds: float = HANG_S, interval_s: float = 0.1) -> bool:
    """Wait until a condition is true and return whether it became true in time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(interval_s)
    return bool(condition())


def processes_in(workspace: Path) -> list[psutil.Process]:
    """Return the live processes that a flow of this workspace started: stages, their children, and the Prefect server."""
    found = []
    for process in psutil.process_iter():
        try:
            here = OWNER in process.environ() and Path(process.cwd()).resolve() == workspace.resolve()
            if here and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (psutil.Error, OSError):
            continue
    return found


def stages_in(workspace: Path) -> list[str]:
    """Return the command lines of the live stage processes of a workspace (DVC, its shell, the stage, its workers)."""
    lines = []
    for process in processes_in(workspace):
        try:
            line = " ".join(process.cmdline())
        except psutil.Error:
            continue
        if line and "flows.server" not in line:
            lines.append(line)
    return lines


def trains(workspace: Path) -> bool:
    """Return whether a train stage runs and has its MLflow run open."""
    return any(" train " in line for line in stages_in(workspace)) and mlflow_statuses(workspace)["RUNNING"] > 0


def signal_chain(flow: subprocess.Popen[bytes], sent: signal.Signals, *, group: bool) -> float:
    """Signal a `coat run`, or its whole process group, and return the time of the signal (monotonic, s)."""
    if group:
        os.killpg(flow.pid, sent)
    else:
        flow.send_signal(sent)
    return time.monotonic()


def forget_training(workspace: Path) -> None:
    """Make every train stage stale with nothing to resume: remove it from `dvc.lock`, the run cache, the outs and the scratch."""
    lock = workspace / "dvc.lock"
    if lock.exists():
        recorded = yaml.safe_load(lock.read_text())
        recorded["stages"] = {name: body for name, body in recorded["stages"].items() if name.split("@")[0] != "train"}
        lock.write_text(yaml.safe_dump(recorded, sort_keys=False))
    for folder in (workspace.parent / f"{workspace.name}-cache" / "runs", workspace / "models", workspace / "runs"):
        shutil.rmtree(folder, ignore_errors=True)
    for mark in (workspace / ".scratch").glob("*/stage.txt"):
        shutil.rmtree(mark.parent)


def fingerprint(workspace: Path) -> dict[str, str]:
    """Return the SHA-256 of every deterministic file of a workspace, by its path."""
    found: dict[str, str] = {}
    for name in DETERMINISTIC:
        path = workspace / name
        for file in [path] if path.is_file() else sorted(part for part in path.rglob("*") if part.is_file()):
            found[file.relative_to(workspace).as_posix()] = sha256_file(file)
    assert len({name.split("/")[0] for name in found}) == len({name.split("/")[0] for name in DETERMINISTIC})
    return found


def mlflow_statuses(workspace: Path) -> Counter[str]:
    """Count the MLflow runs by status."""
    return Counter(row[0] for row in _rows(workspace / "mlflow.db", "SELECT status FROM runs"))


def versions(workspace: Path) -> dict[str, list[int]]:
    """Return the registered versions of every model."""
    found: dict[str, list[int]] = {}
    for name, version in _rows(workspace / "mlflow.db", "SELECT name, version FROM model_versions ORDER BY name, version"):
        found.setdefault(name, []).append(version)
    return found


def aliases(workspace: Path) -> dict[tuple[str, str], int]:
    """Return the registry's aliases: (model, alias) → version."""
    rows = _rows(workspace / "mlflow.db", "SELECT name, alias, version FROM registered_model_aliases")
    return {(name, alias): version for name, alias, version in rows}


def prefect_states(workspace: Path) -> dict[str, Counter[str]]:
    """Count the flow runs and task runs of the workspace's own Prefect records by state type.

    A task whose upstream task did not complete ends as NotReady, which Prefect records under the type PENDING; it is counted by its name.
    """
    database = workspace / ".scratch/prefect/prefect.db"
    state = "CASE state_name WHEN 'NotReady' THEN 'NotReady' ELSE state_type END"
    return {table: Counter(row[0] for row in _rows(database, f"SELECT {state} FROM {table}")) for table in ("flow_run", "task_run")}


def flow_runs(workspace: Path) -> list[str]:
    """Return the ids of the flow runs in the workspace's own Prefect records."""
    return [row[0] for row in _rows(workspace / ".scratch/prefect/prefect.db", "SELECT id FROM flow_run")]


def unfinished(workspace: Path) -> dict[str, int]:
    """Count the runs that MLflow and Prefect record as not ended."""
    states = {"mlflow": mlflow_statuses(workspace), **prefect_states(workspace)}
    return {name: count for name, states_ in states.items() if (count := sum(states_[state] for state in UNFINISHED))}


def prefect_edges(workspace: Path) -> dict[str, set[str]]:
    """Return the task runs of the workspace's last flow run, each with the task runs from which the run page draws an arrow to it."""
    database = workspace / ".scratch/prefect/prefect.db"
    query = "SELECT id, name, task_inputs FROM task_run WHERE flow_run_id = (SELECT id FROM flow_run ORDER BY start_time DESC LIMIT 1)"
    rows = _rows(database, query)
    names = {_hex_id(identifier): name for identifier, name, _ in rows}
    return {name: {names[_hex_id(entry["id"])] for entries in json.loads(inputs).values() for entry in entries} for _, name, inputs in rows}


def mlflow_parents(workspace: Path) -> dict[str, str]:
    """Return the name of every MLflow run that has a parent, with the name of that parent."""
    query = (
        "SELECT child.name, parent.name FROM tags JOIN runs AS child USING (run_uuid) JOIN runs AS parent ON parent.run_uuid = tags.value "
        "WHERE tags.key = 'mlflow.parentRunId'"
    )
    return dict(_rows(workspace / "mlflow.db", query))


def flow_run_names(workspace: Path) -> list[str]:
    """Return the names of the flow runs in the workspace's own Prefect records."""
    return [row[0] for row in _rows(workspace / ".scratch/prefect/prefect.db", "SELECT name FROM flow_run ORDER BY start_time")]


def progress_artifacts(workspace: Path) -> list[tuple[str, float]]:
    """Return key and value of every progress artifact in the workspace's own Prefect records."""
    query = "SELECT key, data FROM artifact WHERE type = 'progress' ORDER BY key"
    return [(key, float(data)) for key, data in _rows(workspace / ".scratch/prefect/prefect.db", query)]


def ran_stages(printed: str) -> list[str]:
    """Return the stages that a `coat run` started, from its output."""
    return [line.split("  start ")[1].strip() for line in printed.splitlines() if "  start " in line]


def _hex_id(identifier: str) -> str:
    return identifier.replace("-", "")


def _rows(database: Path, query: str) -> Sequence[tuple]:
    if not database.exists():
        return []
    with closing(sqlite3.connect(database, timeout=30)) as connection:
        return connection.execute(query).fetchall()
