"""Local servers as child processes: a free port, a health check, and an end with their parent's signal."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import IO

from coat_core.errors import CoatError

LOOPBACK = "127.0.0.1"
GRACE_S = 10.0
"""Time from SIGTERM to SIGKILL when a server is ended."""
_POLL_S = 0.25


class Stopped(KeyboardInterrupt):
    """SIGTERM arrived; it ends the program as Ctrl-C does."""


def free_port() -> int:
    """Return a free TCP port of the loopback interface."""
    with socket.socket() as sock:
        sock.bind((LOOPBACK, 0))
        return int(sock.getsockname()[1])


def check_port(host: str, port: int) -> None:
    """Check that a server can use an address.

    Raises:
        CoatError: another program uses the port, the port needs other rights, or the host is not an address of this machine.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        with socket.socket(family, kind, protocol) as sock:
            # The servers set it too: without it, connections that ended a moment ago would occupy the port.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(address)
    except OSError as error:
        raise CoatError(
            f"a server cannot use this address: {error.strerror or error}", field="--port", value=f"{host}:{port}",
            next_step=f"stop the program that uses it, or choose another port, for example --port {free_port()}",
        ) from error  # fmt: skip


@contextmanager
def server_process(
    command: Sequence[str], environment: Mapping[str, str], output: IO[bytes] | None, *, grace_s: float = GRACE_S
) -> Iterator[subprocess.Popen[bytes]]:
    """Start a server in its own session, and end it with its children when the block ends.

    Args:
        command: the program and its arguments.
        environment: the whole environment.
        output: file of its output and errors; None: both go to the standard error of this process.
        grace_s: time from SIGTERM to SIGKILL.
    """
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=output or 2, stderr=output or 2, start_new_session=True, env=dict(environment)
    )
    try:
        yield process
    finally:
        _signal_group(process.pid, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(grace_s)
        _signal_group(process.pid, signal.SIGKILL)
        process.wait()


def wait_until_up(process: subprocess.Popen[bytes], url: str, *, limit_s: float) -> bool:
    """Wait until a URL answers; False if the process ended first, or if the time is over."""
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline and process.poll() is None:
        if answers(url):
            return True
        time.sleep(_POLL_S)
    return False


def answers(url: str) -> bool:
    """Return whether a URL answers with success."""
    try:
        with urllib.request.urlopen(url, timeout=2):
            return True
    except (urllib.error.URLError, OSError, ValueError):
        return False


def wait_for_an_end(processes: Sequence[subprocess.Popen[bytes]]) -> subprocess.Popen[bytes]:
    """Wait until one of the processes ends, and return it."""
    while True:
        for process in processes:
            if process.poll() is not None:
                return process
        time.sleep(_POLL_S)


@contextmanager
def sigterm_as_interrupt() -> Iterator[None]:
    """Within the block SIGTERM raises `Stopped` in the main thread, so that clean-up runs as after Ctrl-C."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        raise Stopped

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def path_with(folder: Path) -> str:
    """Return `PATH` with a folder in front, so that the programs of this interpreter are found without an activated environment."""
    return os.pathsep.join(filter(None, (str(folder), os.environ.get("PATH", ""))))


def _signal_group(group: int, sent: signal.Signals) -> None:
    try:
        os.killpg(group, sent)
    except (ProcessLookupError, PermissionError):
        return
