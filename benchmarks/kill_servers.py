"""Kill the servers that a team runs, its worker and its flow with signal 9 at random moments, in turn, while a worker runs the chain.

    python -m benchmarks.kill_servers [--kills 20] [--seed 0] [--params params/tiny.yaml] [--folder DIR] [--json FILE]

PostgreSQL has the databases of an MLflow server and of a Prefect server with authentication; a worker takes runs of `coat/manual`. A killed
server is started again at once, a killed flow or worker is followed by a new run. A round is one workspace with models of its own names. It
ends when a run completes, and one more run, which has no stage to run: it closes what a killed worker left open. Then every
deterministic file must be byte-equal to that of an undisturbed workspace, each model must have one version, no process may be left, and
MLflow and Prefect may record nothing as running. An S3 server is not among them: `benchmarks.network_faults` ends its connections. It needs
what `make services` installs.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from benchmarks.after_kills import differences
from coat_core.pipeline.workspace import make_workspace
from coat_core.settings import read_values
from tests.testing import chain_runs
from tests.testing.mlflow_server import TrackingServer
from tests.testing.postgres import PostgresServer, reason_to_skip, running
from tests.testing.prefect_site import ENDED, Site, prefect_site

LOGIN = "coat:secret-of-the-team"
KINDS = ("mlflow", "worker", "prefect", "postgres", "flow")
"""What is killed, in turn."""
LOST_AFTER_S = "90"
SETTLED_S = 600.0
"""Time within which Prefect has recorded the last states of a run that has ended, in seconds."""
LEASES = "prefect.server.concurrency.lease_storage.filesystem"


Row = dict[str, Any]


@dataclass(frozen=True)
class Expected:
    """What an undisturbed workspace has: the digests of its deterministic files, and the registered versions of its models."""

    files: dict[str, str]
    versions: list[int]


class Team:
    """The servers and the worker.

    Args:
        folder: of their logs and artifacts.
    """

    def __init__(self, folder: Path) -> None:
        self._stack = ExitStack()
        self.postgres: PostgresServer = self._stack.enter_context(running())
        for name in ("mlflow", "prefect"):
            (folder / name).mkdir(parents=True, exist_ok=True)
            self.postgres.create(name)
        self.mlflow = TrackingServer(self.postgres.uri("mlflow"), folder / "mlflow")
        self.mlflow.start()
        self._stack.callback(self.mlflow.kill)
        self.prefect: Site = self._stack.enter_context(
            prefect_site(
                folder / "prefect", login=LOGIN, database=self.postgres.uri("prefect", "postgresql+asyncpg"),
                MLFLOW_TRACKING_URI=self.mlflow.url, PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE=LEASES,
            )
        )  # fmt: skip
        self.prefect.deploy("--lost-after", LOST_AFTER_S)
        self.prefect.start_worker()

    def close(self) -> None:
        """End everything."""
        self._stack.close()

    def kill(self, kind: str) -> None:
        """Kill one of `KINDS` and start it again; a flow is not started again."""
        kills: dict[str, Callable[[], None]] = {
            "flow": self._kill_flow, "worker": self._kill_worker, "mlflow": self._kill_mlflow, "prefect": self._kill_prefect,
            "postgres": self._kill_postgres,
        }  # fmt: skip
        kills[kind]()

    def recorded_as_running(self) -> dict[str, int]:
        """Count what MLflow and Prefect record as running."""
        found = {"mlflow runs": self._count("runs", "status", "mlflow")}
        found |= {table: self._count(table, "state_type", "prefect", "AND state_name <> 'NotReady'") for table in ("flow_run", "task_run")}
        return {name: count for name, count in found.items() if count}

    def versions(self, suffix: str) -> list[int]:
        """Return the numbers of all versions of the models whose names end so."""
        rows = self.postgres.query(f"SELECT version FROM model_versions WHERE right(name, {len(suffix)}) = '{suffix}'", "mlflow")
        return [int(str(version)) for (version,) in rows]

    def _count(self, table: str, column: str, database: str, more: str = "") -> int:
        # A scheduled run of the coming nights has not begun.
        statement = f"SELECT count(*) FROM {table} WHERE {column} IN ('RUNNING', 'PENDING', 'CANCELLING') {more}"
        ((count,),) = self.postgres.query(statement, database)
        return int(str(count))

    def _kill_flow(self) -> None:
        assert self.prefect.worker is not None
        _kill(psutil.Process(self.prefect.worker.pid).children(recursive=True))

    def _kill_worker(self) -> None:
        worker = self.prefect.worker
        assert worker is not None
        _kill([*psutil.Process(worker.pid).children(recursive=True), psutil.Process(worker.pid)])
        worker.wait()
        self.prefect.start_worker()

    def _kill_mlflow(self) -> None:
        self.mlflow.kill()
        self.mlflow.start()

    def _kill_prefect(self) -> None:
        server = self.prefect.server
        assert server is not None
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()
        self.prefect.start_server()

    def _kill_postgres(self) -> None:
        self.postgres.kill()
        self.postgres.start()


def _kill(processes: list[psutil.Process]) -> None:
    for process in processes:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--params", type=Path, default=chain_runs.PARAMS)
    parser.add_argument("--folder", type=Path, default=None, help="default: a temporary folder")
    parser.add_argument("--json", type=Path, default=None)
    options = parser.parse_args()
    if reason := reason_to_skip():
        sys.exit(f"{reason}: make services")
    folder = options.folder or Path(tempfile.mkdtemp(prefix="coat-kill-servers-"))
    team = Team(folder / "team")
    try:
        rows, problems, duration = run_rounds(team, folder, options.params, options.kills, random.Random(options.seed))
    finally:
        team.close()
    counts = Counter(row["killed"] for row in rows)
    rounds = max((row["round"] for row in rows), default=0)
    print(f"{len(rows)} kills in {rounds} rounds ({', '.join(f'{counts[kind]} {kind}' for kind in KINDS)}); {len(problems)} problems")
    if options.json:
        content = {"undisturbed_s": round(duration, 1), "kills": rows, "rounds": rounds, "problems": problems}
        options.json.write_text(json.dumps(content, indent=1) + "\n")
    sys.exit(1 if problems else 0)


def run_rounds(
    team: Team, folder: Path, params: Path, kills: int, generator: random.Random, within: float = 1.0
) -> tuple[list[Row], list[str], float]:
    """Return the kills, the problems, and the seconds of an undisturbed run.

    Args:
        team: the servers and the worker.
        folder: of the workspaces.
        params: of the workspaces.
        kills: their number.
        generator: draws the moments.
        within: time in which the next kill comes, as a share of the duration of an undisturbed run.
    """
    undisturbed, suffix = make_round(folder, params, 0)
    started = time.monotonic()
    state = team.prefect.wait_for_end(team.prefect.start("manual", workspace=str(undisturbed)))
    if state != "COMPLETED":
        raise SystemExit(team.prefect.worker_log.read_text()[-5000:])
    duration = time.monotonic() - started
    expected = Expected(chain_runs.fingerprint(undisturbed), team.versions(suffix))
    print(f"undisturbed: {duration:.0f} s, {len(expected.files)} files, {len(expected.versions)} versions", flush=True)
    rows: list[Row] = []
    problems: list[str] = []
    number = 0
    while len(rows) < kills:
        number += 1
        workspace, suffix = make_round(folder, params, number)
        run, runs, kills_before = team.prefect.start("manual", workspace=str(workspace)), 1, len(rows)
        while True:
            moment = generator.uniform(0.0, within * duration)
            if len(rows) == kills or ended_within(team, run, moment):
                state = team.prefect.wait_for_end(run)
                if state == "COMPLETED":
                    break
                if len(rows) == kills_before:
                    raise SystemExit(
                        f"round {number}: run {runs} ended as {state} without a kill: {team.prefect.worker_log.read_text()[-3000:]}"
                    )
                print(f"{number:>5}      run {runs} ended as {state}", flush=True)
            else:
                kind = KINDS[len(rows) % len(KINDS)]
                stages = sorted({line.rsplit(" ", 1)[-1] for line in chain_runs.stages_in(workspace) if "--single-item" in line})
                team.kill(kind)
                rows.append({"round": number, "run": runs, "killed": kind, "after_s": round(moment, 1), "running": stages})
                print(f"{number:>5} {len(rows):>4} {kind:9} after {moment:>5.1f} s  {', '.join(stages) or '-'}", flush=True)
                if kind not in ("flow", "worker"):
                    continue
                # This kill ended the last run; the next one has had none.
            run, runs, kills_before = team.prefect.start("manual", workspace=str(workspace)), runs + 1, len(rows)
        found = examine(team, workspace, expected, suffix)
        problems += [f"round {number}: {problem}" for problem in found]
        print(f"{number:>5} complete after {runs} runs: {'; '.join(found) or 'equal to the undisturbed workspace'}", flush=True)
    return rows, problems, duration


def make_round(folder: Path, params: Path, number: int) -> tuple[Path, str]:
    """Create a workspace with a DVC cache and registered models of its own; return it and the end of the models' names."""
    suffix = f"-round{number:03}"
    names = {key: f"{name}{suffix}" for key, name in read_values(params)["registry"]["names"].items()}
    workspace = make_workspace(folder / f"workspace-{number}", params, {"registry.names": names})
    chain_runs.command("dvc", "config", "--local", "cache.dir", str(folder / f"cache-{number}"), workspace=workspace)
    return workspace, suffix


def ended_within(team: Team, run: str, seconds: float) -> bool:
    """Wait for so long, or until a run has ended, and return whether it has."""
    return chain_runs.wait_for(lambda: team.prefect.state(run) in ENDED, seconds, interval_s=0.5)


def examine(team: Team, workspace: Path, expected: Expected, suffix: str) -> list[str]:
    """Start a last run, and return the differences from the undisturbed workspace and what is left behind."""
    problems = []
    # The server marks the run of a killed worker once its heartbeats have been missing for a while; the next run closes its tasks.
    if not chain_runs.wait_for(lambda: "flow_run" not in team.recorded_as_running(), interval_s=1):
        problems.append(f"runs recorded as running: {team.recorded_as_running()}")
    state = team.prefect.wait_for_end(team.prefect.start("manual", workspace=str(workspace)))
    if state != "COMPLETED":
        problems.append(f"a run without work ended as {state}")
    problems += differences(workspace, expected.files)
    if (has := team.versions(suffix)) != expected.versions:
        problems.append(f"versions {has}")
    # Prefect sends the states of tasks as events, the last ones after that of their run.
    if not chain_runs.wait_for(lambda: not team.recorded_as_running(), SETTLED_S, interval_s=1):
        problems.append(f"recorded as running: {team.recorded_as_running()}")
    return problems


if __name__ == "__main__":
    main()
