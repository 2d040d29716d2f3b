"""Where MLflow stores its records: the SQLite database of a workspace, or a tracking server."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit, urlunsplit

from filelock import FileLock, Timeout

from coat_core.errors import RegistryError

DATABASE = "mlflow.db"
ARTIFACTS = "mlartifacts"
_LOCK_TIMEOUT_S = 600.0
_LOCATIONS = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)
"""Every table and column in which MLflow stores an absolute artifact location."""


def set_mlflow_environment() -> None:
    """Disable MLflow's telemetry, progress bars and server jobs, unless the environment already sets them.

    Call it before `mlflow` is imported.
    """
    for name, value in (
        ("MLFLOW_DISABLE_TELEMETRY", "true"),
        ("DO_NOT_TRACK", "true"),
        ("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "false"),
        ("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false"),
        ("MLFLOW_LOGGING_LEVEL", "WARNING"),
        ("GIT_PYTHON_REFRESH", "silent"),
    ):
        os.environ.setdefault(name, value)


@contextmanager
def locked(workspace: Path, name: str = "registry") -> Iterator[None]:
    """Hold the file lock that every writer of the registry acquires; it is reentrant within a thread.

    Raises:
        RegistryError: the folder cannot be written, or another process holds the lock for ten minutes.
    """
    folder = workspace.resolve() / ".scratch"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / f"{name}.lock", timeout=_LOCK_TIMEOUT_S, is_singleton=True)
        lock.acquire()
    except Timeout as error:
        raise RegistryError(
            f"another process has held the lock of the registry for {_LOCK_TIMEOUT_S:.0f} s",
            field="lock",
            value=str(folder / f"{name}.lock"),
            next_step="wait for it, or end it",
        ) from error
    except OSError as error:
        raise not_writable(workspace, error) from error
    try:
        yield
    finally:
        lock.release()


def tracking_uri(workspace: Path = Path()) -> str:
    """Return the tracking URI of a workspace; create the database if it does not exist.

    `MLFLOW_TRACKING_URI` has priority. Otherwise the database is SQLite at `mlflow.db`, with artifacts under `mlartifacts/`. Three
    processes that create one database at the same time corrupt it, and a kill during creation leaves half a schema. The database is
    therefore created under a lock, at a temporary name, and renamed. The artifact locations of a workspace that was moved or copied
    are rewritten.

    Raises:
        RegistryError: the file is not an MLflow database, or the folder cannot be written.
    """
    set_mlflow_environment()
    uri = os.environ.get("MLFLOW_TRACKING_URI")
    if uri:
        return uri
    path = (workspace / DATABASE).resolve()
    if not path.exists():
        with locked(workspace, "database"):
            if not path.exists():
                try:
                    _create(path)
                except OSError as error:
                    raise not_writable(workspace, error) from error
    _relocate(path, path.stat().st_ino)
    return database_uri(path)


def connect(workspace: Path = Path()) -> Any:
    """Return an `MlflowClient` of the workspace's records (tracking and registry); create the database if it does not exist.

    Raises:
        RegistryError: the file is not an MLflow database, or the folder cannot be written.
    """
    uri = tracking_uri(workspace)
    from coat_core.registry.client import Client

    return Client(uri, workspace)


def open_registry(workspace: Path = Path()) -> Any:
    """Return a client as `connect` does, of records that exist: for commands that read or change what is registered.

    Raises:
        RegistryError: the folder has no database and no tracking server is configured; nothing is created.
    """
    if not os.environ.get("MLFLOW_TRACKING_URI") and not (workspace / DATABASE).exists():
        raise RegistryError(
            "there is no registry here: nothing was registered in this folder",
            field=DATABASE,
            value=str((workspace / DATABASE).resolve()),
            next_step="run in the workspace that contains it, or register a release there: coat run",
        )
    return connect(workspace)


def not_writable(workspace: Path, error: BaseException) -> RegistryError:
    """Return the error for a workspace whose records cannot be written."""
    return RegistryError(
        f"the registry cannot be written: {str(error).splitlines()[0]}",
        field="workspace",
        value=str(workspace.resolve()),
        next_step="make the folder and its mlflow.db writable for this user, or work in a copy",
    )


def experiment_id(client: Any, name: str, workspace: Path = Path()) -> str:
    """Return the id of an experiment; create it if it does not exist. Without a server its artifacts go to `mlartifacts/`."""
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is not None:
        return str(found.experiment_id)
    location = None if is_served(client.tracking_uri) else artifact_location((workspace / ARTIFACTS).resolve())
    try:
        return str(client.create_experiment(name, artifact_location=location))
    except MlflowException:
        # Another process created it in the meantime.
        found = client.get_experiment_by_name(name)
        if found is None:
            raise
        return str(found.experiment_id)


def is_served(uri: str) -> bool:
    """Return whether a URI names a tracking server, and not a database that this process opens itself."""
    return not uri.startswith(("sqlite:", "sqlite+", "postgresql", "mysql", "mssql"))


@contextmanager
def default_database(uri: str) -> Iterator[None]:
    """Set the default database of MLflow's module-level functions, which some client calls use instead of the client's URI."""
    import mlflow

    # MLflow also sets the environment variable. If it stayed set, it would override the database of the next workspace.
    before = os.environ.get("MLFLOW_TRACKING_URI")
    mlflow.set_tracking_uri(uri)
    try:
        yield
    finally:
        mlflow.set_tracking_uri(before)


def database_uri(path: Path, driver: str = "") -> str:
    """Return SQLAlchemy's URI of an SQLite file.

    SQLAlchemy reads `?` as the start of the query: a path with it is written as SQLite's own URI, in which it is percent-encoded
    (https://www.sqlite.org/uri.html). The name of a driver prevents that MLflow creates a folder `file:` for it.

    Args:
        path: the file.
        driver: SQLAlchemy's driver; empty: its default.
    """
    if "?" in path.as_posix():
        return f"sqlite+{driver or 'pysqlite'}:///file:{quote(path.as_posix())}?uri=true"
    return f"{f'sqlite+{driver}' if driver else 'sqlite'}:///{path.as_posix()}"


def artifact_location(folder: Path) -> str:
    """Return the location of a local folder as MLflow reads it: a path, or a `file:` URI for a path with `%`, `#` or `?`."""
    return folder.as_uri() if needs_quotes(folder) else folder.as_posix()


def portable(uri: str) -> str:
    """Return a tracking URI for records: without user and password; the database of a workspace by its relative name."""
    if uri.startswith("sqlite") and uri.partition("?uri=true")[0].endswith(f"/{DATABASE}"):
        return f"sqlite:///{DATABASE}"
    parts = urlsplit(uri)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2])) if "@" in parts.netloc else uri


def needs_quotes(path: Path) -> bool:
    """Return whether a path has characters that MLflow would read as a part of a URI."""
    return any(character in path.as_posix() for character in "%#?")


def _create(path: Path) -> None:
    """Write the schema and the default experiment at a temporary name, then rename; the experiment sets the artifact folder."""
    for leftover in path.parent.glob(f".{path.name}.new*"):
        leftover.unlink()
    temporary = path.with_name(f".{path.name}.new")
    artifacts = path.parent / ARTIFACTS
    artifacts.mkdir(exist_ok=True)

    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    SqlAlchemyStore(database_uri(temporary), artifact_location(artifacts))._dispose_engine()
    with temporary.open("rb") as stream:
        os.fsync(stream.fileno())
    temporary.replace(path)


@cache
def _relocate(path: Path, inode: int) -> None:
    """Rewrite the absolute artifact locations of a database whose workspace was moved or copied.

    This is the only place that writes SQL to MLflow's tables. MLflow stores absolute paths (a relative location is resolved when the
    experiment is created), and its client has no call that changes the location of an existing experiment, run, logged model or
    version. Registering the releases again would lose version numbers, aliases and decisions.

    The result is cached by file, because every connection calls it.

    Args:
        path: the database.
        inode: inode of the file; part of the cache key only.

    Raises:
        RegistryError: the file is not an MLflow database.
    """
    here = artifact_location(path.parent / ARTIFACTS)
    try:
        row = _default_experiment(path)
    except sqlite3.DatabaseError as error:
        raise RegistryError(
            f"{path.name} is not an MLflow database: {error}",
            field=DATABASE,
            value=str(path),
            next_step=f"set it aside (mv {path.name} {path.name}.broken) and run the same command again",
        ) from error
    recorded = str(row[0]).removesuffix("/0") if row else ""
    # A database that `mlflow ui` created itself keeps the locations that it chose.
    if not recorded.endswith(f"/{ARTIFACTS}") or recorded == here:
        return
    with locked(path.parent, "database"):
        try:
            _rewrite(path, recorded, here)
        except sqlite3.OperationalError as error:
            raise not_writable(path.parent, error) from error
    # The workspace may move back to a place that is cached.
    _relocate.cache_clear()


def _default_experiment(path: Path) -> Any:
    """Return the artifact location of the default experiment as a row; None if there is no such experiment."""
    query = "SELECT artifact_location FROM experiments WHERE experiment_id = 0"
    try:
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=60)) as database:
            return database.execute(query).fetchone()
    except sqlite3.OperationalError as error:
        if "readonly" not in str(error):
            raise
    # A process was killed within a transaction. Only a connection that may write can roll its journal back.
    try:
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=rw", uri=True, timeout=60)) as database:
            return database.execute(query).fetchone()
    except sqlite3.OperationalError as error:
        raise not_writable(path.parent, error) from error


def _rewrite(path: Path, recorded: str, here: str) -> None:
    with closing(sqlite3.connect(path, timeout=60)) as database, database:
        for table, column in _LOCATIONS:
            database.execute(
                f"UPDATE {table} SET {column} = ? || substr({column}, ?) WHERE {column} = ? OR substr({column}, 1, ?) = ?",
                (here, len(recorded) + 1, recorded, len(recorded) + 1, recorded + "/"),
            )
