"""Watchdog thread of a stage: it kills the stage when the flow that started it has ended.

A parent-death signal is not enough, since DVC and a shell run between the flow and the stage. The flow passes its process id and start
time in the environment; a thread in the stage checks twice a second and kills the stage and its children when the flow has ended.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from pathlib import Path

import psutil

OWNER = "COAT_OWNER"
"""Environment variable with the mark `<pid>:<start time>` of the process that owns the running stages."""
INTERVAL_S = 0.5
_FIRST_PID_SPACE = "pid:[4026531836]"
"""Linux's name of the process ids that are not those of a container."""


def owner_mark(pid: int | None = None) -> str:
    """Return the mark of a process: its id and start time, which together are unique."""
    process = psutil.Process(pid)
    return f"{process.pid}:{process.create_time():.2f}"


def host_name() -> str:
    """Return a name for what the process ids of this process are valid in: the host, or a container of it with ids of its own."""
    host = socket.gethostname()
    try:
        space = str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return host
    return host if space == _FIRST_PID_SPACE else f"{host} {space}"


def is_alive(mark: str) -> bool:
    """Return whether the process with this mark still runs; a zombie counts as ended."""
    try:
        pid, started = mark.split(":")
        process = psutil.Process(int(pid))
        return abs(process.create_time() - float(started)) < 0.05 and process.status() != psutil.STATUS_ZOMBIE
    except (ValueError, psutil.NoSuchProcess):
        return False


def watch_owner() -> None:
    """Start the watchdog thread if the environment names an owner."""
    mark = os.environ.get(OWNER)
    if mark:
        threading.Thread(target=_watch, args=(mark,), daemon=True, name="owner-watch").start()


def _watch(mark: str) -> None:
    while is_alive(mark):
        time.sleep(INTERVAL_S)
    children = psutil.Process().children(recursive=True)
    for process in children:
        process.send_signal(signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)
