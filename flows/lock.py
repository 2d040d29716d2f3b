"""One flow per workspace: a lock with the name of its holder, and the clean-up that only the holder may do."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import psutil
import yaml
from filelock import FileLock, Timeout

from coat_core import storage
from coat_core.errors import BusyError
from coat_core.watchdog import OWNER, is_alive, owner_mark

LOCK = Path(".scratch/run.lock")
HOLDER = Path(".scratch/run.holder.json")
_held: set[Path] = set()


@contextmanager
def hold_workspace(workspace: Path, *, tidy: bool = True) -> Iterator[None]:
    """Hold the workspace's lock and clean up after dead runs. Within one process the lock is reentrant.

    Args:
        workspace: the folder.
        tidy: False only holds the lock.

    Raises:
        BusyError: another run holds the lock; the message names its process.
    """
    place = workspace.resolve()
    if place in _held:
        yield
        return
    (workspace / LOCK).parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(workspace / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise BusyError(
            "another run holds this workspace",
            field="workspace",
            value=str(workspace.resolve()),
            allowed=f"one run; the holder is {_holder(workspace)}",
            next_step="wait for it, or stop it with Ctrl-C in its terminal",
        ) from None
    _held.add(place)
    try:
        storage.write_json(workspace / HOLDER, {"owner": owner_mark(), "since": datetime.now(UTC).isoformat(timespec="seconds")})
        if tidy:
            end_orphans(workspace)
            remove_broken_dvc_files(workspace)
        yield
    finally:
        _held.discard(place)
        (workspace / HOLDER).unlink(missing_ok=True)
        lock.release()


def end_orphans(workspace: Path) -> int:
    """Kill the processes in this workspace whose flow is gone, and return their number."""
    orphans = []
    for process in psutil.process_iter():
        try:
            mark = process.environ().get(OWNER)
            if mark and not is_alive(mark) and Path(process.cwd()).resolve() == workspace.resolve() and process.pid != os.getpid():
                process.kill()
                orphans.append(process)
        except (psutil.Error, OSError):
            continue
    psutil.wait_procs(orphans, timeout=5)
    return len(orphans)


def remove_broken_dvc_files(workspace: Path) -> None:
    """Remove DVC's own locks when no DVC process runs here, and a `dvc.lock` that a kill left half-written.

    DVC writes `rwlock` and `dvc.lock` in place. Its run cache restores what was recorded in `dvc.lock`.
    """
    temporary = workspace / ".dvc" / "tmp"
    if not dvc_runs_in(workspace):
        for name in ("rwlock", "rwlock.lock", "lock"):
            (temporary / name).unlink(missing_ok=True)
    lock = workspace / "dvc.lock"
    if lock.exists():
        try:
            readable = isinstance(yaml.safe_load(lock.read_text()), dict)
        except (yaml.YAMLError, UnicodeDecodeError):
            readable = False
        if not readable:
            lock.unlink()


def prune_scratch(workspace: Path) -> None:
    """Remove the scratch of completed stages, which DVC has recorded."""
    for mark in (workspace / ".scratch").glob("*/stage.done.json"):
        shutil.rmtree(mark.parent, ignore_errors=True)


def dvc_runs_in(workspace: Path) -> bool:
    """Return whether a DVC process works in a workspace."""
    for process in psutil.process_iter():
        try:
            if any(Path(part).name == "dvc" for part in process.cmdline()[:3]) and Path(process.cwd()).resolve() == workspace.resolve():
                return True
        except (psutil.Error, OSError):
            continue
    return False


def _holder(workspace: Path) -> str:
    try:
        holder = json.loads((workspace / HOLDER).read_text())
    except (OSError, ValueError):
        return "unknown"
    return f"process {holder['owner'].split(':')[0]} since {holder['since']}"
