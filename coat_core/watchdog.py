"""Watchdog thread of a stage: it kills the stage when the flow that started it has ended.

A parent-death signal is not enough, since DVC and a shell run between the flow and the stage. The flow passes its process id and start
time in the environment; a thread in the stage checks twice a second and kills the stage and its children when the flow has ended.
"""

from __future__ import annotations

import os
import signal
import threading
import time

import psutil

OWNER = "COAT_OWNER"
"""Environment variable with the mark `<pid>:<start time>` of the process that owns the running stages."""
INTERVAL_S = 0.5


def owner_mark(pid: int | None = None) -> str:
    """Return the mark of a process: its id and start time, which together are unique."""
    process = psutil.Process(pid)
    return f"{process.pid}:{process.create_time():.2f}"


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
