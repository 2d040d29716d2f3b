"""A stage never outlives the flow that started it.

A parent-death signal is not enough: DVC and a shell stand between. The flow hands its process id and start time down in the
environment; a thread inside the stage looks twice a second and ends the stage's whole process group once the flow is gone.
"""

from __future__ import annotations

import os
import signal
import threading
import time

import psutil

OWNER = "COAT_OWNER"
"""Environment variable `<pid>:<start time>` of the process that owns the running stages."""
INTERVAL_S = 0.5


def owner_mark(pid: int | None = None) -> str:
    """Return the mark of a process: its id and start time, which together never come again."""
    process = psutil.Process(pid)
    return f"{process.pid}:{process.create_time():.2f}"


def is_alive(mark: str) -> bool:
    """Return whether the process of a mark still runs (a zombie does not)."""
    try:
        pid, started = mark.split(":")
        process = psutil.Process(int(pid))
        return abs(process.create_time() - float(started)) < 0.05 and process.status() != psutil.STATUS_ZOMBIE
    except (ValueError, psutil.NoSuchProcess):
        return False


def watch_owner() -> None:
    """Start the watch, if an owner is named in the environment."""
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
