"""Processes that stand for hosts of one registry: each has a workspace of its own and does one command at a time."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.testing.chain_runs import environment

ROOT = Path(__file__).resolve().parents[2]
_LOCK = """
from coat_core.registry.locks import locked
def lock(wait):
    with locked(workspace):
        if wait:
            print(json.dumps("held"), flush=True)
            sys.stdin.readline()
    return "released"
"""
_REGISTRY = (
    _LOCK
    + """
import os, signal
from coat_core.registry import cold_load, promotion, releases
from coat_core.registry.cold_load import ColdLoad
from coat_core.registry.database import connect
from coat_core.registry.promotion import promote_candidate
from coat_core.settings import load_settings
cold_load._run_process = lambda *arguments: ColdLoad("dog")
promotion.read_manifest = lambda path: []

def start():
    connect(workspace)
    return "started"

def register(name, trial):
    made = releases.register_trial(workspace, name, trial)
    return [made.version, made.created]

def promote(backbone):
    done = promote_candidate(workspace, load_settings(workspace / "params.yaml"), backbone)
    return [done.version, done.decision]

def register_and_die(name, trial):
    releases._create_version = lambda *arguments: os.kill(os.getpid(), signal.SIGKILL)
    return register(name, trial)
"""
)
_MAIN = """
import json, sys
from pathlib import Path
workspace = Path(sys.argv[1])
%s
print(json.dumps("ready"), flush=True)
for line in sys.stdin:
    name, arguments = json.loads(line)
    try:
        print(json.dumps(globals()[name](*arguments)), flush=True)
    except ValueError as error:
        print(json.dumps({"error": str(error), "type": type(error).__name__}), flush=True)
"""


class Host:
    """One process; `ask` starts a command, `answer` waits for its result."""

    def __init__(self, workspace: Path, code: str, variables: dict[str, str]) -> None:
        self.workspace = workspace
        self._process = subprocess.Popen(
            [sys.executable, "-c", _MAIN % code, str(workspace)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=workspace,
            env=environment(PYTHONPATH=str(ROOT), **variables),
        )  # fmt: skip

    @property
    def pid(self) -> int:
        """Id of the process."""
        return self._process.pid

    def ask(self, command: str, *arguments: Any) -> None:
        """Start a command."""
        self.write(json.dumps([command, arguments]))

    def write(self, line: str = "") -> None:
        """Send a line."""
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def answer(self) -> Any:
        """Wait for the next result; None if the process has ended."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        return json.loads(line) if line else None

    def call(self, command: str, *arguments: Any) -> Any:
        """Run a command and return its result."""
        self.ask(command, *arguments)
        return self.answer()

    def kill(self) -> None:
        """End the process with SIGKILL."""
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        """End the process, and close its streams."""
        self.kill()
        for stream in (self._process.stdin, self._process.stdout):
            assert stream is not None
            stream.close()


@contextmanager
def hosts(workspaces: list[Path], *, registry: bool, **variables: str) -> Iterator[list[Host]]:
    """Start one process for each workspace.

    Args:
        workspaces: their folders.
        registry: whether they register and promote; otherwise they only take the lock, and start much faster.
        variables: environment variables.
    """
    made = [Host(folder, _REGISTRY if registry else _LOCK, variables) for folder in workspaces]
    try:
        assert [host.answer() for host in made] == ["ready"] * len(made)
        yield made
    finally:
        for host in made:
            host.close()
