"""Tracking URIs: what kind of store they name, how they are shown without credentials, and how local paths are written in them."""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path
from urllib.parse import quote, unquote

TRACKING_URI = "MLFLOW_TRACKING_URI"
DATABASE = "mlflow.db"
_SERVER_LOGIN = re.compile(r"[^/?#]*@")
_DATABASE_LOGIN = re.compile(r"[^/@:?]*(?::[^@]*(?:@[^/?@]+(?=@))*)?@")
"""User and password as SQLAlchemy reads them: any character but `@`; and a password in which `@` was not encoded."""
_SECRETS = re.compile("pass|pwd|secret|token|key|odbc", re.IGNORECASE)
_HIDDEN = re.compile(f"{_SECRETS.pattern}|user", re.IGNORECASE)
_SHORT = 3
"""A password of fewer characters is part of ordinary words: replacing it would make every text unreadable."""


def is_served(uri: str) -> bool:
    """Return whether a URI names a tracking server, and not a database that this process opens itself."""
    return not uri.startswith(("sqlite:", "sqlite+", "postgresql", "mysql", "mssql"))


def is_postgresql(uri: str) -> bool:
    """Return whether a URI names a PostgreSQL database that this process opens itself."""
    return uri.startswith(("postgresql:", "postgresql+"))


def portable(uri: str) -> str:
    """Return a URI to show or to record: without user and password; the database of a workspace by its relative name.

    Parameters whose names can mean credentials (`?password=…`) are left out too.
    """
    if uri.startswith("sqlite"):
        return f"sqlite:///{DATABASE}" if uri.partition("?uri=true")[0].endswith(f"/{DATABASE}") else uri
    scheme, separator, rest = uri.partition("://")
    if not separator:
        return uri
    place, mark, query = rest.removeprefix(_login(uri)).partition("?")
    kept = "&".join(part for part in query.split("&") if part and not _HIDDEN.search(part.partition("=")[0]))
    return f"{scheme}://{place}{mark if kept else ''}{kept}"


def without_secrets(text: str, uri: str) -> str:
    """Return a text in which a URI and its password, encoded or not, are replaced."""
    text = text.replace(uri, portable(uri))
    for secret in secrets(uri):
        text = text.replace(secret, "***")
    return text


def secrets(uri: str) -> set[str]:
    """Return the passwords in a URI, as they are written and decoded."""
    if uri.startswith("sqlite"):
        return set()
    login = _login(uri)
    query = uri.partition("://")[2].removeprefix(login).partition("?")[2]
    found = {login[:-1].partition(":")[2]}
    found |= {value for name, _, value in (part.partition("=") for part in query.split("&")) if _SECRETS.search(name)}
    return {secret for written in found for secret in (written, unquote(written)) if len(secret) >= _SHORT}


def login_of(uri: str) -> str | None:
    """Return `user:password` of a URI, decoded; None if it has none."""
    return unquote(_login(uri)[:-1]) or None


def page_of(uri: str) -> str:
    """Return what to open or to type for MLflow's page over a store; a password is never part of it."""
    if is_served(uri):
        return portable(uri)
    if uri.startswith("sqlite"):
        return f".venv/bin/mlflow ui --backend-store-uri {shlex.quote(uri)}"
    # An argument would show the password to every user of the host, in the list of processes.
    return f'MLFLOW_BACKEND_STORE_URI="${TRACKING_URI}" .venv/bin/mlflow ui  ({portable(uri)})'


def configured() -> str:
    """Return the tracking URI that the environment sets; empty without one."""
    return os.environ.get(TRACKING_URI, "")


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


def needs_quotes(path: Path) -> bool:
    """Return whether a path has characters that MLflow would read as a part of a URI."""
    return any(character in path.as_posix() for character in "%#?")


def _login(uri: str) -> str:
    """Return user and password of a URI as they are written, with the `@` after them."""
    found = (_SERVER_LOGIN if uri.startswith("http") else _DATABASE_LOGIN).match(uri.partition("://")[2])
    return found[0] if found else ""
