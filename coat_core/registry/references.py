"""What a user types for a model: `models:/NAME@ALIAS`, `NAME@ALIAS`, `NAME/VERSION` or a release folder."""

from __future__ import annotations

import difflib
import os
import re
from pathlib import Path
from typing import Any

from coat_core.errors import RegistryError
from coat_core.registry.database import connect
from coat_core.registry.lineage import MODEL_PREFIX
from coat_core.registry.uris import DATABASE, portable

_FORMS = "models:/NAME@ALIAS, models:/NAME/VERSION or a release folder"
_ALIASED = re.compile(r"[^/@\s]+@[^/@\s]+")
_ABSENT = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")
"""MLflow's codes of a missing model or version, and of a missing alias."""
_NUMBERED = re.compile(r"[^/@\s]+/[0-9]+")


def model_uri(text: str, workspace: Path = Path()) -> str | None:
    """Return the URI `models:/…` that a text names, or None if it names a folder. Nothing is created.

    Raises:
        RegistryError: the text names neither; there is no registry here; or the model, the version or the alias does not exist.
    """
    if text.startswith(MODEL_PREFIX):
        uri = text
    elif os.path.lexists(text):
        return None
    elif _ALIASED.fullmatch(text) or _NUMBERED.fullmatch(text):
        uri = MODEL_PREFIX + text
    elif text.strip() and "/" not in text and _registry_exists(workspace):
        client = connect(workspace)
        if text in _names(client):
            raise RegistryError("a registered model needs a version or an alias", field="model", value=text, allowed=_known(client, text))
        return None
    else:
        return None
    check_version(uri, workspace)
    return uri


def existing_version(text: str, workspace: Path = Path()) -> str:
    """Return the URI `models:/…` of the version that a text names.

    Raises:
        RegistryError: the text names no version of a registered model; or the registry, the model, the version or the alias does not exist.
    """
    uri = model_uri(text, workspace)
    if uri is None:
        raise RegistryError(
            "this does not name a version of a registered model", field="model", value=text,
            allowed="models:/NAME@ALIAS or models:/NAME/VERSION",
        )  # fmt: skip
    return uri


def check_version(uri: str, workspace: Path = Path()) -> None:
    """Check that a version exists, without creating a database.

    Raises:
        RegistryError: there is no registry here, the URI has another form, or the model, version or alias does not exist. The message
            names a model with a similar name.
    """
    from mlflow.exceptions import MlflowException

    name, alias, version = split_uri(uri)
    if not _registry_exists(workspace):
        raise RegistryError(
            "there is no registry here", field="model", value=uri, allowed=f"a folder with {DATABASE}, or MLFLOW_TRACKING_URI set",
            next_step="change to the workspace in which the model was registered, or set MLFLOW_TRACKING_URI",
        )  # fmt: skip
    client = connect(workspace)
    try:
        if alias:
            client.get_model_version_by_alias(name, alias)
        else:
            client.get_model_version(name, version)
    except MlflowException as error:
        if error.error_code not in _ABSENT:
            raise RegistryError(
                f"the registry cannot be read: {str(error).splitlines()[0]}",
                field="MLFLOW_TRACKING_URI",
                value=portable(client.tracking_uri),
            ) from error
        raise _absent(client, uri, name, f"alias {alias}" if alias else f"version {version}") from error


def version_number(uri: str, workspace: Path = Path()) -> str:
    """Return the number of the version that an existing URI names now."""
    name, alias, version = split_uri(uri)
    return str(connect(workspace).get_model_version_by_alias(name, alias).version) if alias else version


def split_uri(uri: str) -> tuple[str, str, str]:
    """Return (name, alias, version) of `models:/name@alias` or `models:/name/version`; alias or version is empty.

    Raises:
        RegistryError: the URI has another form.
    """
    text = uri.removeprefix(MODEL_PREFIX)
    if _ALIASED.fullmatch(text):
        name, _, alias = text.partition("@")
        return name, alias, ""
    if _NUMBERED.fullmatch(text):
        name, _, version = text.partition("/")
        return name, "", version
    raise RegistryError("this does not name a version of a registered model", field="model", value=uri, allowed=_FORMS)


def _absent(client: Any, uri: str, name: str, what: str) -> RegistryError:
    names = _names(client)
    if name in names:
        return RegistryError(f"{name} has no {what}", field="model", value=uri, allowed=_known(client, name), next_step="use one of these")
    near = difflib.get_close_matches(name, names, n=1)
    return RegistryError(
        "no registered model has this name", field="model", value=uri, allowed=names or "nothing is registered yet",
        next_step=f"did you mean {uri.replace(name, near[0], 1)}?" if near else "register one: coat run, or coat register",
    )  # fmt: skip


def _registry_exists(workspace: Path) -> bool:
    return bool(os.environ.get("MLFLOW_TRACKING_URI")) or (workspace / DATABASE).exists()


def _names(client: Any) -> list[str]:
    return sorted(model.name for model in client.search_registered_models())


def _known(client: Any, name: str) -> list[str] | str:
    """Return the URIs of a model's aliases and versions."""
    aliases = sorted(client.get_registered_model(name).aliases)
    versions = sorted(int(found.version) for found in client.search_model_versions(f"name='{name}'"))
    uris = [f"{MODEL_PREFIX}{name}@{alias}" for alias in aliases] + [f"{MODEL_PREFIX}{name}/{version}" for version in versions]
    return uris or "it has no version yet"
