"""Retention of registered versions: which are old, and their removal.

Only a version without any alias is old: neither the champion, nor the version that a rollback restores, nor the challenger. It was
withdrawn, or it was decided about and another one has taken its place. The training run with its metrics, scores and lineage stays.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

from coat_core.errors import RegistryError
from coat_core.registry.champions import SUPERSEDED_AT, withdrawal_tag
from coat_core.registry.database import open_registry
from coat_core.registry.locks import locked
from coat_core.registry.uris import portable

LOCK_FILE = "lineage/dvc.lock"
"""Artifact of a run: the `dvc.lock` of its workspace when the version was registered."""


@dataclass(frozen=True)
class OldVersion:
    """A version that can be removed.

    Attributes:
        name: registered model.
        version: version of the model.
        why: what happened to it.
        since: when that was.
        note: who withdrew it, and why; empty for a superseded version.
        size: bytes of its files, 0 if another version shares them.
    """

    name: str
    version: str
    why: Literal["withdrawn", "superseded"]
    since: datetime
    note: str
    size: int


def old_versions(workspace: Path, names: Collection[str], *, days: int, in_use: Collection[str] = (), now: datetime) -> list[OldVersion]:
    """Return the versions that nothing needs and that are not younger than some days.

    Args:
        workspace: folder of MLflow's records.
        names: registered models to look at.
        days: age, counted from the withdrawal, or from the loss of the last alias.
        in_use: stage keys of releases that must stay registered: the next run would register them again.
        now: the time to count back from.

    Raises:
        RegistryError: there is no registry here, or it cannot be read.
    """
    client = open_registry(workspace)
    found, shared = [], _shared_files(client)
    for name in sorted(names):
        versions = sorted(_versions(client, f"name='{name}'"), key=lambda version: int(version.version))
        aliases = _aliases(client, name) if versions else frozenset()
        for version in versions:
            judged = _judge(version, aliases)
            if judged is None or version.tags["stage_key"] in in_use or judged[1] > now - timedelta(days=days):
                continue
            why, since = judged
            size = 0 if _model_of(version) in shared else sum(_sizes(_files(client, version)))
            found.append(OldVersion(name, str(version.version), why, since, version.tags.get("withdrawn", ""), size))
    return found


def remove_version(workspace: Path, old: OldVersion) -> bool:
    """Remove a version and its files; return False if it is no longer old, and then nothing was changed.

    The files go first and the version last, so that the same call completes a removal that a kill interrupted. That a stage key was
    withdrawn stays known: a tag of the registered model has it, and a release with this key is registered as withdrawn again.

    Raises:
        RegistryError: the files cannot be removed, or the account may not do it.
    """
    from mlflow.exceptions import MlflowException

    client = open_registry(workspace)
    with locked(workspace):
        try:
            version = client.get_model_version(old.name, old.version)
        except MlflowException:
            return False
        judged = _judge(version, _aliases(client, old.name))
        if judged is None or judged[0] != old.why:
            return False
        if old.why == "withdrawn":
            client.set_registered_model_tag(old.name, withdrawal_tag(version.tags["stage_key"]), version.tags["withdrawn"])
        if _model_of(version) not in _shared_files(client):
            _remove_files(client, version)
        client.delete_model_version(old.name, old.version)
    return True


def recorded_locks(workspace: Path, without: Collection[tuple[str, str]] = ()) -> Iterator[str]:
    """Yield the text of `dvc.lock` that each registered version was registered with, of all models of the registry.

    Args:
        workspace: folder of MLflow's records.
        without: (model, version) of versions to leave out.
    """
    from mlflow.artifacts import download_artifacts

    client = open_registry(workspace)
    seen = set()
    for version in _versions(client, ""):
        if (version.name, str(version.version)) in without or not version.run_id or version.run_id in seen:
            continue
        seen.add(version.run_id)
        folder = LOCK_FILE.rpartition("/")[0]
        if LOCK_FILE in {file.path for file in client.list_artifacts(version.run_id, folder)}:
            yield Path(
                download_artifacts(run_id=version.run_id, artifact_path=LOCK_FILE, tracking_uri=client.tracking_uri)
            ).read_text()  # fmt: skip


def _judge(version: Any, aliases: Collection[str]) -> tuple[Literal["withdrawn", "superseded"], datetime] | None:
    """Return what became of a version, and when; None if it is needed, not decided about, or not registered by this project."""
    tags = version.tags
    if str(version.version) in aliases or "stage_key" not in tags:
        return None
    if "withdrawn" in tags:
        return "withdrawn", _time(tags.get("withdrawn_at"), version)
    if "decision" not in tags:
        return None
    # Versions that lost their alias before this tag existed count from their decision.
    return "superseded", _time(tags.get(SUPERSEDED_AT) or tags.get("decision_at"), version)


def _time(recorded: str | None, version: Any) -> datetime:
    registered = datetime.fromtimestamp(version.creation_timestamp / 1000, UTC)
    try:
        found = datetime.fromisoformat(recorded or "")
    except ValueError:
        return registered
    return max(registered, found if found.tzinfo else found.replace(tzinfo=UTC))


def _aliases(client: Any, name: str) -> frozenset[str]:
    """Return the versions of a model that have an alias."""
    return frozenset(str(version) for version in client.get_registered_model(name).aliases.values())


def _versions(client: Any, condition: str) -> Iterator[Any]:
    """Yield the versions that a search finds, page by page."""
    token = None
    while True:
        page = client.search_model_versions(condition, page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def _shared_files(client: Any) -> frozenset[str]:
    """Return the logged models that more than one version refers to, of any registered model."""
    uses = Counter(_model_of(version) for version in _versions(client, ""))
    return frozenset(model for model, count in uses.items() if model and count > 1)


def _model_of(version: Any) -> str:
    """Return the id of the logged model that a version refers to; empty if it refers to something else."""
    found = re.fullmatch("models:/([^/@]+)", version.source or "")
    return found[1] if found else ""


def _files(client: Any, version: Any) -> Any | None:
    """Return MLflow's access to the files of a version; None if it has no logged model of its own.

    Raises:
        RegistryError: the recorded place is not one of the logged model alone.
    """
    from mlflow.exceptions import MlflowException
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    model = _model_of(version)
    if not model:
        return None
    try:
        location = client.get_logged_model(model).artifact_location
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return None
        raise
    if model not in location.split("/"):
        raise RegistryError(
            "the files of a version are in a folder that is not its own, and are not removed", field="artifact_location",
            value=portable(location), next_step=f"remove {version.name} version {version.version} by hand",
        )  # fmt: skip
    return get_artifact_repository(location, tracking_uri=client.tracking_uri)


def _sizes(files: Any | None, folder: str | None = None) -> Iterator[int]:
    """Yield the bytes of each file, folder by folder."""
    for entry in files.list_artifacts(folder) if files is not None else ():
        if entry.is_dir:
            yield from _sizes(files, entry.path)
        else:
            yield entry.file_size or 0


def _remove_files(client: Any, version: Any) -> None:
    files = _files(client, version)
    if files is None:
        return
    try:
        files.delete_artifacts()
    except Exception as error:
        # Its type depends on the kind of place: a folder, a server, an S3 bucket.
        raise RegistryError(
            f"the files of {version.name} version {version.version} cannot be removed ({type(error).__name__})", field="artifact_location",
            value=portable(files.artifact_uri), next_step="give this account the right to delete them, and run the same command again",
        ) from error  # fmt: skip
    client.delete_logged_model(_model_of(version))
