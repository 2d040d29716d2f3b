"""Run `coat run` again and again on a finished workspace, and count what grows: nothing may but Prefect's history of the runs.

    python -m benchmarks.noop [--runs 200] [--params params/tiny.yaml] [--folder DIR] [--workspace DIR] [--json FILE]

An MLflow server and a Prefect server stay up, as a team has them. The first runs complete the workspace and register it; they are not
counted. After each run: files of the workspace and of its DVC cache, rows of both databases, memory, open files and TCP connections of both
servers, and processes that the run left behind. The end is an error if one of these grows:

* files or their bytes, rows of MLflow's database, rows of Prefect's that do not belong to the history of runs
* open files or connections: more in the second half of the runs than in the first
* memory: the line through the second half rises by more than 2 % in as many runs again
"""

from __future__ import annotations

import argparse
import json
import os
import sqlite3
import sys
import tempfile
import time
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import psutil

from tests.testing import chain_runs
from tests.testing.mlflow_server import TrackingServer
from tests.testing.prefect_site import prefect_site

ROOT = Path(__file__).resolve().parent.parent
WARM_UP = 2
HISTORY = {
    "artifact", "artifact_collection", "event_resources", "events", "flow_run", "flow_run_state", "log", "task_run", "task_run_state",
    "automation_event_follower", "task_run_state_cache",
}  # fmt: skip
"""Prefect's tables with what happened in each run. Its server can be told to forget it (PREFECT_SERVER_SERVICES_DB_VACUUM_ENABLED)."""
MEMORY_GROWTH = 0.02


@dataclass(frozen=True)
class Count:
    """What there is after a run."""

    seconds: float
    files: int
    bytes: int
    mlflow_rows: int
    prefect_rows: int
    history_rows: int
    mlflow_mb: float
    prefect_mb: float
    open_files: int
    connections: int
    left: int


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--params", type=Path, default=ROOT / "params/tiny.yaml")
    parser.add_argument("--folder", type=Path, default=None, help="of servers and workspace; default: a temporary one")
    parser.add_argument("--workspace", type=Path, default=None, help="a finished workspace with a DVC cache of its own beside it")
    parser.add_argument("--json", type=Path, default=None)
    options = parser.parse_args()
    folder = options.folder or Path(tempfile.mkdtemp(prefix="coat-noop-"))
    workspace = options.workspace or chain_runs.make_tiny(folder / "workspace", options.params)
    for name in ("mlflow", "prefect"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    mlflow = TrackingServer(f"sqlite:///{folder / 'mlflow/mlflow.db'}", folder / "mlflow")
    mlflow.start()
    counts: list[Count] = []
    try:
        with prefect_site(folder / "prefect") as prefect:
            assert prefect.server is not None
            variables = {"PREFECT_API_URL": prefect.url, "MLFLOW_TRACKING_URI": mlflow.url}
            header = "  ".join(f"{name:>12}" for name in Count.__dataclass_fields__)
            print(f"{'run':>4}  {header}", flush=True)
            for number in range(-WARM_UP, options.runs):
                began = time.monotonic()
                printed = chain_runs.run_chain(workspace, **variables)
                seconds = time.monotonic() - began
                assert number < 0 or not chain_runs.ran_stages(printed), "this run had something to do"
                count = measure(seconds, workspace, folder, mlflow.pid, prefect.server.pid)
                if number >= 0:
                    counts.append(count)
                values = "  ".join(f"{value:>12,.1f}" if isinstance(value, float) else f"{value:>12,}" for value in asdict(count).values())
                print(f"{number:>4}  {values}", flush=True)
    finally:
        mlflow.kill()
    problems = growth(counts)
    first, last = counts[0], counts[-1]
    runs = max(1, len(counts) - 1)
    print(f"{len(counts)} runs without a stage, median {np.median([count.seconds for count in counts]):.0f} s")
    print(f"history of Prefect: {(last.history_rows - first.history_rows) / runs:.1f} rows a run")
    print("\n".join(problems) or "nothing else grows")
    if options.json:
        options.json.write_text(json.dumps({"counts": [asdict(count) for count in counts], "problems": problems}, indent=1) + "\n")
    sys.exit(1 if problems else 0)


def measure(seconds: float, workspace: Path, folder: Path, mlflow: int, prefect: int) -> Count:
    """Count everything once."""
    files = [path for top in (workspace, workspace.parent / f"{workspace.name}-cache") for path in own_files(top)]
    history, other = 0, 0
    for table, rows in table_rows(folder / "prefect/prefect.db").items():
        history, other = (history + rows, other) if table in HISTORY else (history, other + rows)
    servers = {name: processes_of(pid) for name, pid in (("mlflow", mlflow), ("prefect", prefect))}
    every = [process for found in servers.values() for process in found]
    return Count(
        seconds=seconds,
        files=len(files),
        bytes=sum(path.lstat().st_size for path in files),
        mlflow_rows=sum(table_rows(folder / "mlflow/mlflow.db").values()),
        prefect_rows=other,
        history_rows=history,
        mlflow_mb=sum(process.memory_info().rss for process in servers["mlflow"]) / 1e6,
        prefect_mb=sum(process.memory_info().rss for process in servers["prefect"]) / 1e6,
        open_files=sum(process.num_fds() for process in every),
        connections=sum(len(process.net_connections("tcp")) for process in every),
        left=len(chain_runs.processes_in(workspace)),
    )


def own_files(top: Path) -> list[Path]:
    """Return the files below a folder, without those behind links."""
    return [Path(folder) / name for folder, _, names in os.walk(top) for name in names]


def processes_of(pid: int) -> list[psutil.Process]:
    """Return a process with its children."""
    process = psutil.Process(pid)
    return [process, *process.children(recursive=True)]


def table_rows(database: Path) -> dict[str, int]:
    """Return the number of rows of each table."""
    with closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True, timeout=60)) as opened:
        tables = [row[0] for row in opened.execute("SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'")]
        return {table: opened.execute(f'SELECT count(*) FROM "{table}"').fetchone()[0] for table in tables}


def growth(counts: list[Count]) -> list[str]:
    """Return what grew, one line each."""
    problems = []
    for name in ("files", "bytes", "mlflow_rows", "prefect_rows", "left"):
        values = [getattr(count, name) for count in counts]
        if values[-1] > values[0]:
            problems.append(f"{name} grew from {values[0]:,} to {values[-1]:,}")
    half = len(counts) // 2
    if half < 2:
        return [*problems, "fewer than 4 runs: memory, open files and connections are not judged"]
    for name in ("open_files", "connections"):
        before, after = (max(getattr(count, name) for count in part) for part in (counts[:half], counts[half:]))
        if after > before:
            problems.append(f"{name}: at most {before:,} in the first half of the runs, {after:,} in the second")
    for name in ("mlflow_mb", "prefect_mb"):
        values = np.array([getattr(count, name) for count in counts[half:]])
        slope = float(np.polyfit(np.arange(len(values)), values, 1)[0])
        if slope * len(values) > MEMORY_GROWTH * values[0]:
            problems.append(f"{name} grows by {slope:.2f} MB a run (at {values[0]:.0f} MB)")
    return problems


if __name__ == "__main__":
    main()
