"""Where MLflow stores its records: the SQLite database of a workspace, a PostgreSQL database, or a tracking server."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from coat_core.errors import RegistryError
from coat_core.registry.artifacts import FOLDER, check_location, experiment_root, new_root
from coat_core.registry.locks import file_lock, lock_database, not_writable
from coat_core.registry.postgres import connection
from coat_core.registry.schema import prepare
from coat_core.registry.uris import DATABASE, TRACKING_URI, artifact_location, configured, database_uri, is_postgresql

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


def tracking_uri(workspace: Path = Path()) -> str:
    """Return the tracking URI of a workspace; create the database if it does not exist.

    `MLFLOW_TRACKING_URI` has priority; an empty PostgreSQL database gets its tables. Otherwise the database is SQLite at `mlflow.db`,
    with artifacts under `mlartifacts/`. Three processes that create one database at the same time corrupt it, and a kill during creation
    leaves half a schema. The database is therefore created under a lock, at a temporary name, and renamed. The artifact locations of a
    workspace that was moved or copied are rewritten.

    Raises:
        RegistryError: the database is not one of MLflow's, cannot be reached, or the folder cannot be written.
    """
    set_mlflow_environment()
    uri = configured()
    if is_postgresql(uri):
        prepare(uri)
    if uri:
        return uri
    path = (workspace / DATABASE).resolve()
    if not path.exists():
        with file_lock(workspace, "database"):
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
    if not configured() and not (workspace / DATABASE).exists():
        raise RegistryError(
            "there is no registry here: nothing was registered in this folder",
            field=DATABASE,
            value=str((workspace / DATABASE).resolve()),
            next_step="run in the workspace that contains it, or register a release there: coat run",
        )
    return connect(workspace)


def check_store() -> None:
    """Check what can be known of the configured store before any work: its URI, the driver, the account, the artifact root, the lock.

    Raises:
        RegistryError: one of them is invalid.
    """
    lock_database()
    uri = configured()
    if is_postgresql(uri):
        new_root()
        with connection(uri):
            pass


def experiment_id(client: Any, name: str, workspace: Path = Path()) -> str:
    """Return the id of an experiment; create it if it does not exist (see `artifacts.experiment_root`).

    Raises:
        RegistryError: a shared database has no artifact root, or the artifacts are in a folder of another host.
    """
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is not None:
        check_location(client.tracking_uri, found.artifact_location)
        return str(found.experiment_id)
    location = experiment_root(client.tracking_uri, name, workspace)
    try:
        return str(client.create_experiment(name, artifact_location=location))
    except MlflowException:
        # Another process created it in the meantime.
        found = client.get_experiment_by_name(name)
        if found is None:
            raise
        return str(found.experiment_id)


@contextmanager
def default_database(uri: str) -> Iterator[None]:
    """Set the default database of MLflow's module-level functions, which some client calls use instead of the client's URI."""
    import mlflow

    # MLflow also sets the environment variable. If it stayed set, it would override the database of the next workspace.
    before = os.environ.get(TRACKING_URI)
    mlflow.set_tracking_uri(uri)
    try:
        yield
    finally:
        mlflow.set_tracking_uri(before)


def _create(path: Path) -> None:
    """Write the schema and the default experiment at a temporary name, then rename; the experiment sets the artifact folder."""
    for leftover in path.parent.glob(f".{path.name}.new*"):
        leftover.unlink()
    temporary = path.with_name(f".{path.name}.new")
    artifacts = path.parent / FOLDER
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
    here = artifact_location(path.parent / FOLDER)
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
    if not recorded.endswith(f"/{FOLDER}") or recorded == here:
        return
    with file_lock(path.parent, "database"):
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
