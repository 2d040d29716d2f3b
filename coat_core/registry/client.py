"""MLflow's client, with errors of the place itself (a read-only database, an unreachable server) as errors for users."""

from __future__ import annotations

import logging
import os
import time
from functools import wraps
from pathlib import Path
from typing import Any

from coat_core.errors import RegistryError, RegistryRefusedError, RegistryUnavailableError
from coat_core.registry.locks import not_writable
from coat_core.registry.postgres import PAUSES_S, explain
from coat_core.registry.uris import TRACKING_URI, is_postgresql, is_served, portable, secrets, without_secrets

_READ_ONLY = ("readonly database", "read-only", "permission denied", "unable to open database file")
_UNREACHABLE = ("max retries exceeded", "failed to establish a new connection", "connection refused", "name or service not known")
_REFUSED = ("UNAUTHENTICATED", "PERMISSION_DENIED")
_NOT_CONNECTED = ("connection refused", "the database system is", "timeout expired", "no route to host", "could not translate host name")
"""What PostgreSQL's driver says when it could not connect: nothing was written, and the call can be repeated."""
REQUEST_RETRIES = "4"
"""Repetitions of a request to a server, after 2, 4, 8 and 16 s: a restart is survived. MLflow's own default waits for four minutes."""


class Client:
    """An `MlflowClient` of one tracking URI, for tracking and registry.

    Every method of `MlflowClient` is available; other errors of MLflow are raised as they are.

    Args:
        uri: tracking URI.
        workspace: folder that error messages name.
    """

    def __init__(self, uri: str, workspace: Path) -> None:
        from mlflow import MlflowClient

        if uri.startswith("http"):
            os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", REQUEST_RETRIES)
        # It prints the traceback of every error of a database that is raised as well.
        logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
        self._uri, self._workspace = uri, workspace
        with_errors = self._explained(MlflowClient)
        self._client: Any = with_errors(tracking_uri=uri, registry_uri=uri)

    def __getattr__(self, name: str) -> Any:
        """Return an attribute of the `MlflowClient`; a method raises errors of the place as `RegistryError`."""
        value = getattr(self._client, name)
        return self._explained(value) if callable(value) else value

    def _explained(self, function: Any) -> Any:
        from mlflow.exceptions import MlflowException

        @wraps(function, updated=())
        def call(*arguments: Any, **named: Any) -> Any:
            try:
                return self._repeated(function, *arguments, **named)
            except PermissionError as error:
                raise not_writable(self._workspace, error) from error
            except MlflowException as error:
                text = str(error).lower()
                if is_postgresql(self._uri) and error.error_code == "TEMPORARILY_UNAVAILABLE":
                    raise explain(error, self._uri) from None
                # A server that refuses a request says "Permission denied" too.
                if not is_served(self._uri) and any(part in text for part in _READ_ONLY):
                    raise not_writable(self._workspace, error) from error
                if any(part in text for part in _UNREACHABLE):
                    raise RegistryUnavailableError(
                        "the tracking server is unreachable",
                        field="MLFLOW_TRACKING_URI",
                        value=portable(self._uri),
                        next_step="start the server, or unset MLFLOW_TRACKING_URI to use mlflow.db in this folder",
                    ) from error
                if error.error_code in _REFUSED:
                    raise RegistryRefusedError(
                        "the tracking server refused the request",
                        field="MLFLOW_TRACKING_URI",
                        value=portable(self._uri),
                        next_step="set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD to an account that may do this",
                    ) from error
                if any(secret in str(error) for secret in secrets(self._uri)):
                    raise RegistryError(without_secrets(str(error), self._uri), field=TRACKING_URI, value=portable(self._uri)) from None
                raise

        return call

    def _repeated(self, function: Any, *arguments: Any, **named: Any) -> Any:
        """Call a function; where PostgreSQL could not be reached, repeat it for half a minute."""
        from mlflow.exceptions import MlflowException

        for pause_s in PAUSES_S if is_postgresql(self._uri) else ():
            try:
                return function(*arguments, **named)
            except MlflowException as error:
                if not any(part in str(error).lower() for part in _NOT_CONNECTED):
                    raise
            time.sleep(pause_s)
        return function(*arguments, **named)
