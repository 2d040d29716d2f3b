"""Where artifacts are stored: in the workspace with SQLite, at the server's own root, or at a root that all hosts of a database reach."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from urllib.parse import unquote, urlsplit

from coat_core.errors import RegistryError
from coat_core.registry.uris import TRACKING_URI, artifact_location, is_postgresql, is_served, portable

FOLDER = "mlartifacts"
ROOT = "MLFLOW_DEFAULT_ARTIFACT_ROOT"
"""The variable that `mlflow server` reads too. MLflow's client ignores it: of a database, it would use a folder of its own host."""
_ALLOWED = "s3://BUCKET/PREFIX, or the absolute path of a folder that every host has mounted"
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


def experiment_root(uri: str, name: str, workspace: Path) -> str | None:
    """Return the artifact location of a new experiment; None: the tracking server chooses it.

    Raises:
        RegistryError: a PostgreSQL database without an artifact root.
    """
    if is_served(uri):
        return None
    if is_postgresql(uri):
        return f"{new_root()}/{name}"
    return artifact_location((workspace / FOLDER).resolve())


def new_root() -> str:
    """Return the artifact root of a shared database.

    Raises:
        RegistryError: none is set, or it is a folder that this host does not have.
    """
    root = os.environ.get(ROOT, "").rstrip("/")
    if not root:
        raise RegistryError(
            "a shared database needs an artifact root: files in a folder of this host could not be read from the others", field=ROOT,
            value="", allowed=_ALLOWED, next_step=f"set {ROOT} on every host, or use an MLflow server",
        )  # fmt: skip
    folder = local_folder(root)
    if folder is not None and not (folder.is_absolute() and folder.is_dir()):
        raise RegistryError(
            "the artifact root is a folder that does not exist on this host", field=ROOT, value=portable(root), allowed=_ALLOWED,
            next_step="mount it at this path on every host",
        )  # fmt: skip
    if folder is not None:
        logging.getLogger("coat").warning(local_root(root))
    return root


def local_root(root: str) -> str:
    """Return the warning about an artifact root in the file system; empty for another one."""
    return "" if local_folder(root) is None else f"{ROOT} is a folder, {root}: every host needs it mounted at this path"


def check_location(uri: str, location: str) -> None:
    """Check that this host can reach the artifacts of an experiment in a registry of several hosts.

    Raises:
        RegistryError: they are in a folder that this host does not have.
    """
    if not is_postgresql(uri) and (not is_served(uri) or (urlsplit(uri).hostname or "") in _LOOPBACK):
        return
    folder = local_folder(location)
    if folder is None or any(place.is_dir() for place in (folder, folder.parent)):
        return
    raise RegistryError(
        f"the artifacts of this registry are in a folder of another host: {folder}", field=TRACKING_URI, value=portable(uri),
        allowed=_ALLOWED, next_step="mount the folder at this path; or give the server --artifacts-destination, or a new database " + ROOT,
    )  # fmt: skip


def local_folder(location: str) -> Path | None:
    """Return the folder that a path or a `file:` URI names; None for another location."""
    parts = urlsplit(location)
    if parts.scheme == "file":
        return Path(unquote(parts.path))
    return None if "://" in location or parts.scheme == "mlflow-artifacts" else Path(location)
