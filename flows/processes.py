"""The running stage processes, each in its own session: one can be signalled alone, and all can be ended at once."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from coat_core.errors import Interrupted
from coat_core.watchdog import OWNER, owner_mark
from flows.dvc import environment

GRACE_S = 2.0
"""Time from SIGTERM to SIGKILL when all stages are ended."""


@dataclass(frozen=True)
class Ended:
    """How a process ended."""

    returncode: int
    output: str
    """The last 4,000 characters of its output."""


class StageProcesses:
    """Starts stage processes and ends them all; after `end_all` no process starts."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen[bytes]] = set()
        self._closed = False

    @property
    def closed(self) -> bool:
        """Whether `end_all` was called."""
        return self._closed

    def open(self) -> None:
        """Allow starts (again)."""
        with self._lock:
            self._closed = False

    def run(self, command: Sequence[str], workspace: Path, log: Path, **variables: str) -> Ended:
        """Run a command in its own session, write its output to `log`, and wait for it.

        Args:
            command: the program and its arguments.
            workspace: its working directory.
            log: the file of its output.
            variables: further environment variables.

        Raises:
            Interrupted: `end_all` was called.
        """
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("wb") as stream:
            with self._lock:
                if self._closed:
                    raise Interrupted("the run is being stopped", next_step="run the same command again; it resumes")
                process = subprocess.Popen(
                    command,
                    cwd=workspace,
                    stdin=subprocess.DEVNULL,
                    stdout=stream,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                    env=environment(**variables, **{OWNER: owner_mark(os.getpid())}),
                )
                self._running.add(process)
            try:
                returncode = process.wait()
            finally:
                with self._lock:
                    self._running.discard(process)
        if self._closed:
            raise Interrupted("the run is being stopped", next_step="run the same command again; it resumes")
        return Ended(returncode, log.read_text(errors="replace")[-4000:])

    def end_all(self) -> None:
        """Forbid new starts and end every process group: SIGTERM, then SIGKILL for those that remain."""
        with self._lock:
            self._closed = True
            groups = [process.pid for process in self._running]
        for sent, wait_s in ((signal.SIGTERM, GRACE_S), (signal.SIGKILL, 1.0)):
            for group in groups:
                _signal_group(group, sent)
            deadline = time.monotonic() + wait_s
            while any(map(_group_lives, groups)) and time.monotonic() < deadline:
                time.sleep(0.05)


def _signal_group(group: int, sent: signal.Signals) -> None:
    try:
        os.killpg(group, sent)
    except ProcessLookupError:
        return


def _group_lives(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True
