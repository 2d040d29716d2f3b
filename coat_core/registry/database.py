"""Where MLflow keeps its records: a database made once, found by everyone, and moved with its folder."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from filelock import FileLock

from coat_core.errors import RegistryError

DATABASE = "mlflow.db"
ARTIFACTS = "mlartifacts"
_LOCK_TIMEOUT_S = 600.0

# Every column in which MLflow writes an absolute artifact location.
_LOCATIONS = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)


def quiet() -> None:
    """Switch MLflow's telemetry, progress bars and server jobs off; call it before `mlflow` is imported."""
    for name, value in (
        ("MLFLOW_DISABLE_TELEMETRY", "true"),
        ("DO_NOT_TRACK", "true"),
        ("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "false"),
        ("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false"),
        ("MLFLOW_LOGGING_LEVEL", "WARNING"),
        ("GIT_PYTHON_REFRESH", "quiet"),
    ):
        os.environ.setdefault(name, value)


def locked(workspace: Path, name: str = "registry") -> FileLock:
    """Return the lock that every writer of the registry takes (a context manager; taken again by its holder it waits for nobody)."""
    folder = workspace.resolve() / ".scratch"
    folder.mkdir(parents=True, exist_ok=True)
    return FileLock(folder / f"{name}.lock", timeout=_LOCK_TIMEOUT_S, is_singleton=True)


def tracking_uri(workspace: Path = Path()) -> str:
    """Return the tracking URI of a workspace, and make the database when there is none.

    `MLFLOW_TRACKING_URI` wins. Otherwise it is SQLite at `mlflow.db` with artifacts under `mlartifacts/`. Three processes that
    create one database at once corrupt it, and a kill during creation leaves half a schema: it is made under a lock, at a
    temporary name, and renamed. A workspace that was moved or copied has its recorded artifact locations rewritten.

    Raises:
        RegistryError: the file is there but is no MLflow database.
    """
    quiet()
    uri = os.environ.get("MLFLOW_TRACKING_URI")
    if uri:
        return uri
    path = (workspace / DATABASE).resolve()
    if not path.exists():
        with locked(workspace, "database"):
            if not path.exists():
                _create(path)
    _relocate(path, workspace)
    return f"sqlite:///{path.as_posix()}"


def connect(workspace: Path = Path()) -> Any:
    """Return an `MlflowClient` of the workspace's records (tracking and registry)."""
    uri = tracking_uri(workspace)
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=uri, registry_uri=uri)


def experiment_id(client: Any, name: str, workspace: Path = Path()) -> str:
    """Return the id of an experiment, made when it is not there yet; without a server its artifacts go to `mlartifacts/`."""
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is not None:
        return str(found.experiment_id)
    location = None if is_served(client.tracking_uri) else (workspace / ARTIFACTS).resolve().as_posix()
    try:
        return str(client.create_experiment(name, artifact_location=location))
    except MlflowException:
        # Another process was first.
        found = client.get_experiment_by_name(name)
        if found is None:
            raise
        return str(found.experiment_id)


def is_served(uri: str) -> bool:
    """Return whether a tracking server stands behind a URI, rather than a database that this process opens."""
    return not uri.startswith(("sqlite:", "postgresql", "mysql", "mssql"))


@contextmanager
def default_database(uri: str) -> Iterator[None]:
    """Make a database the one that MLflow's module-level functions use, for what its clients do not pass on themselves."""
    import mlflow

    # MLflow writes the variable too; left there it would overrule the next workspace's own database.
    before = os.environ.get("MLFLOW_TRACKING_URI")
    mlflow.set_tracking_uri(uri)
    try:
        yield
    finally:
        mlflow.set_tracking_uri(before)


def portable(uri: str) -> str:
    """Return a tracking URI fit for records: no user or password, and the workspace's own database by its relative name."""
    if uri.startswith("sqlite:") and uri.endswith(f"/{DATABASE}"):
        return f"sqlite:///{DATABASE}"
    parts = urlsplit(uri)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2])) if "@" in parts.netloc else uri


def _create(path: Path) -> None:
    """Write the schema and the default experiment (whose place says where artifacts go) at a temporary name, then rename."""
    for leftover in path.parent.glob(f".{path.name}.new*"):
        leftover.unlink()
    temporary = path.with_name(f".{path.name}.new")
    artifacts = path.parent / ARTIFACTS
    artifacts.mkdir(exist_ok=True)

    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    SqlAlchemyStore(f"sqlite:///{temporary.as_posix()}", artifacts.as_posix())._dispose_engine()
    with temporary.open("rb") as stream:
        os.fsync(stream.fileno())
    temporary.replace(path)


def _relocate(path: Path, workspace: Path) -> None:
    """Rewrite absolute artifact locations after the workspace has moved."""
    here = (path.parent / ARTIFACTS).as_posix()
    recorded = _recorded_root(path, path.stat().st_ino)
    if recorded is None or recorded == here:
        return
    with locked(workspace, "database"), closing(sqlite3.connect(path, timeout=60)) as database, database:
        for table, column in _LOCATIONS:
            database.execute(
                f"UPDATE {table} SET {column} = ? || substr({column}, ?) WHERE {column} = ? OR substr({column}, 1, ?) = ?",
                (here, len(recorded) + 1, recorded, len(recorded) + 1, recorded + "/"),
            )
    _recorded_root.cache_clear()


@cache
def _recorded_root(path: Path, inode: int) -> str | None:
    """Return the artifact folder that the database was made with (cached by file, for it is asked at every call)."""
    try:
        with closing(sqlite3.connect(f"file:{path.as_posix()}?mode=ro", uri=True, timeout=60)) as database:
            row = database.execute("SELECT artifact_location FROM experiments WHERE experiment_id = 0").fetchone()
    except sqlite3.DatabaseError as error:
        raise RegistryError(
            f"{path.name} is not an MLflow database: {error}",
            field=DATABASE,
            value=str(path),
            next_step=f"set it aside (mv {path.name} {path.name}.broken) and run the same command again",
        ) from error
    root = str(row[0]).removesuffix("/0") if row else ""
    # A database that `mlflow ui` made by itself keeps the places it chose.
    return root if root.endswith(f"/{ARTIFACTS}") else None
