"""The lock of the registry: a file on one host, or PostgreSQL's advisory lock for all hosts of one registry.

| store | lock |
|:--|:--|
| SQLite | a file in the workspace |
| `MLFLOW_TRACKING_URI=postgresql://…` | an advisory lock in that database |
| an MLflow server | an advisory lock in the database that `COAT_REGISTRY_LOCK` names; without it, a file of this host |

PostgreSQL releases the advisory lock when the connection ends, so that a killed process or a lost host keeps nothing.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from coat_core.errors import RegistryError, RegistryUnavailableError
from coat_core.registry.postgres import connection
from coat_core.registry.uris import TRACKING_URI, configured, is_postgresql, portable
from coat_core.watchdog import host_name

LOCK_DATABASE = "COAT_REGISTRY_LOCK"
_TIMEOUT_S = 600.0
_POLL_S = 0.25
_CLASS = int.from_bytes(b"coat")
"""First half of the key of the advisory locks; the second half is the place of the name in `_NAMES`."""
_NAMES = ("registry", "schema")
_SESSION = """
SELECT set_config(wanted.name, wanted.value, false)
FROM (VALUES ('tcp_keepalives_idle', '30'), ('tcp_keepalives_interval', '10'), ('tcp_keepalives_count', '3'),
             ('idle_session_timeout', '0')) AS wanted (name, value)
WHERE wanted.name IN (SELECT name FROM pg_settings)
"""
"""A host that disappears is noticed within a minute; a session that waits for its owner's work is not ended."""
_HOLDER = """
SELECT application_name FROM pg_locks JOIN pg_stat_activity USING (pid)
WHERE locktype = 'advisory' AND classid = :class AND objid = :object AND granted AND pg_locks.database = (
    SELECT oid FROM pg_database WHERE datname = current_database())
"""


@dataclass
class _Held:
    """An advisory lock of this thread."""

    opened: Any
    depth: int = 1


class _OfThread(threading.local):
    def __init__(self) -> None:
        self.held: dict[tuple[str, str], _Held] = {}


_thread = _OfThread()


@contextmanager
def locked(workspace: Path) -> Iterator[None]:
    """Hold the lock that every writer of the registry acquires; it is reentrant within a thread.

    Raises:
        RegistryError: the lock cannot be taken, or another process holds it for ten minutes.
        RegistryUnavailableError: PostgreSQL does not answer, or the lock was lost within the block.
    """
    uri = lock_database()
    with advisory_lock(uri, "registry") if uri else file_lock(workspace, "registry"):
        yield


def lock_database() -> str:
    """Return the URI of the database that has the lock; empty: the lock is a file.

    Raises:
        RegistryError: `COAT_REGISTRY_LOCK` is not the URI of a PostgreSQL database.
    """
    named, uri = os.environ.get(LOCK_DATABASE, ""), configured()
    if named and not is_postgresql(named):
        raise RegistryError(
            "the lock of the registry needs a PostgreSQL database", field=LOCK_DATABASE, value=portable(named),
            allowed="postgresql://USER:PASSWORD@HOST:PORT/DATABASE",
        )  # fmt: skip
    return named or (uri if is_postgresql(uri) else "")


@contextmanager
def advisory_lock(uri: str, name: str) -> Iterator[None]:
    """Hold an advisory lock of a PostgreSQL database, on a connection of its own.

    Args:
        uri: the database. It must be reached directly: PgBouncer's transaction mode loses session locks.
        name: `registry` or `schema`.

    Raises:
        RegistryError: another process holds the lock for ten minutes; the error names it.
        RegistryUnavailableError: the server does not answer, or it ended the connection within the block, so that another host may have
            held the lock at the same time. What `coat` writes under the lock can be repeated.
    """
    held = _thread.held.get((uri, name))
    if held is not None:
        held.depth += 1
        try:
            yield
        finally:
            held.depth -= 1
        return
    field = LOCK_DATABASE if os.environ.get(LOCK_DATABASE) == uri else TRACKING_URI
    keys = {"class": _CLASS, "object": _NAMES.index(name)}
    with connection(uri, field, f"coat {os.getpid()} on {host_name()}") as opened:
        _acquire(opened, keys, uri, field)
        _thread.held[uri, name] = _Held(opened)
        try:
            yield
        finally:
            del _thread.held[uri, name]
        _release(opened, keys, uri, field)


@contextmanager
def file_lock(workspace: Path, name: str) -> Iterator[None]:
    """Hold a lock file of a workspace; it is reentrant within a thread.

    Raises:
        RegistryError: the folder cannot be written, or another process holds the lock for ten minutes.
    """
    folder = workspace.resolve() / ".scratch"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / f"{name}.lock", timeout=_TIMEOUT_S, is_singleton=True)
        lock.acquire()
    except Timeout as error:
        raise _busy("another process", str(folder / f"{name}.lock"), "lock") from error
    except OSError as error:
        raise not_writable(workspace, error) from error
    try:
        yield
    finally:
        lock.release()


def not_writable(workspace: Path, error: BaseException) -> RegistryError:
    """Return the error for a workspace whose records cannot be written."""
    return RegistryError(
        f"the registry cannot be written: {str(error).splitlines()[0]}",
        field="workspace",
        value=str(workspace.resolve()),
        next_step="make the folder and its mlflow.db writable for this user, or work in a copy",
    )


def _acquire(opened: Any, keys: dict[str, int], uri: str, field: str) -> None:
    from sqlalchemy import text

    opened.execute(text(_SESSION))
    deadline = time.monotonic() + _TIMEOUT_S
    # The waiting `pg_advisory_lock` would not return at Ctrl-C.
    while not opened.scalar(text("SELECT pg_try_advisory_lock(:class, :object)"), keys):
        if time.monotonic() > deadline:
            raise _busy(" and ".join(opened.scalars(text(_HOLDER), keys)) or "another process", portable(uri), field)
        time.sleep(_POLL_S)


def _release(opened: Any, keys: dict[str, int], uri: str, field: str) -> None:
    from sqlalchemy import text
    from sqlalchemy.exc import DBAPIError

    try:
        opened.scalar(text("SELECT pg_advisory_unlock(:class, :object)"), keys)
    except DBAPIError:
        raise RegistryUnavailableError(
            "the connection that holds the lock of the registry was lost while the registry was written", field=field, value=portable(uri),
            next_step="run the same command again: it completes what is missing",
        ) from None  # fmt: skip


def _busy(holder: str, value: str, field: str) -> RegistryError:
    return RegistryError(
        f"{holder} has held the lock of the registry for {_TIMEOUT_S:.0f} s", field=field, value=value, next_step="wait for it, or end it"
    )
