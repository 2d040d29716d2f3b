"""Connections to PostgreSQL through SQLAlchemy; every problem is an error that a user can fix."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from coat_core.errors import RegistryError, RegistryRefusedError, RegistryUnavailableError
from coat_core.registry.uris import TRACKING_URI, portable, without_secrets

INSTALL = "install the extra `server`: .venv/bin/python -m pip install -c requirements.lock --no-build-isolation -e '.[server]'"
PAUSES_S = (2.0, 4.0, 8.0, 16.0)
"""Pauses before a call to a database that could not be reached is repeated: the same as for a tracking server."""
_CONNECT_S = 30
_REFUSED = ("password authentication failed", "no password supplied", "no pg_hba.conf entry", "permission denied", "authentication")
_WRONG = ("does not exist", "invalid connection option", "invalid dsn", "invalid port")


@contextmanager
def connection(uri: str, field: str = TRACKING_URI, application: str = "coat", *, patient: bool = True) -> Iterator[Any]:
    """Yield an SQLAlchemy connection of its own, without transactions.

    Args:
        uri: `postgresql://…`.
        field: the name of the setting, for errors.
        application: name of the client, which PostgreSQL shows.
        patient: whether a server that does not answer is waited for (half a minute: a restart is survived).

    Raises:
        RegistryError: the driver is absent, or the URI is invalid.
        RegistryRefusedError: the server does not accept the account.
        RegistryUnavailableError: the server does not answer.
    """
    engine = _engine(uri, field, application)
    try:
        opened = _open(engine, uri, field, PAUSES_S if patient else ())
        try:
            yield opened
        finally:
            opened.close()
    finally:
        engine.dispose()


def explain(error: BaseException, uri: str, field: str = TRACKING_URI) -> RegistryError:
    """Return the error for users of an error of PostgreSQL's driver; the text has no password."""
    text = without_secrets(" ".join(str(getattr(error, "orig", None) or error).split()), uri)
    kind: type[RegistryError]
    kind, message, next_step = RegistryUnavailableError, "PostgreSQL does not answer", "start it, or correct the URI"
    if any(part in text.lower() for part in _REFUSED):
        kind, message, next_step = RegistryRefusedError, "PostgreSQL refused the account", "correct user and password in the URI"
    elif any(part in text.lower() for part in _WRONG):
        kind, message, next_step = RegistryError, "PostgreSQL cannot use this URI", "create the database (createdb), or correct the URI"
    return kind(f"{message}: {text}", field=field, value=portable(uri), next_step=next_step)


def _engine(uri: str, field: str, application: str) -> Any:
    import sqlalchemy
    from sqlalchemy.exc import ArgumentError, NoSuchModuleError
    from sqlalchemy.pool import NullPool

    # The name is cut by PostgreSQL at 63 bytes.
    options = {"application_name": application[:63], "connect_timeout": _CONNECT_S}
    try:
        return sqlalchemy.create_engine(uri, poolclass=NullPool, isolation_level="AUTOCOMMIT", connect_args=options)
    except ModuleNotFoundError as error:
        raise RegistryError(
            f"the driver of PostgreSQL is not installed ({error.name})", field=field, value=portable(uri), next_step=INSTALL
        ) from error
    except (ArgumentError, NoSuchModuleError, ValueError):
        # The error can repeat a part of the password.
        raise RegistryError(
            "this is not the URI of a PostgreSQL database", field=field, value=portable(uri),
            allowed="postgresql://USER:PASSWORD@HOST:PORT/DATABASE; other characters than letters and digits in % notation",
        ) from None  # fmt: skip


def _open(engine: Any, uri: str, field: str, pauses_s: Sequence[float]) -> Any:
    from sqlalchemy.exc import DBAPIError

    for pause_s in (*pauses_s, None):
        try:
            return engine.connect()
        except DBAPIError as error:
            explained = explain(error, uri, field)
        if pause_s is None or not explained.retryable:
            break
        time.sleep(pause_s)
    # Not `from error`: the driver's error repeats what it was given.
    raise explained
