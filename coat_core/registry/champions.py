"""Aliases of a registered model (champion, previous champion, challenger): promotion and rollback."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from coat_core.errors import RegistryError
from coat_core.registry.database import open_registry
from coat_core.registry.gate import Decision
from coat_core.registry.locks import locked

CHAMPION, PREVIOUS, CHALLENGER = "champion", "previous_champion", "challenger"
SUPERSEDED_AT = "superseded_at"
"""Tag with the time at which another version took the last alias of this one."""
_DECISION = "\n\n## Promotion decision\n"


def withdrawal_tag(stage_key: str) -> str:
    """Return the tag of a registered model that says of a stage key that its version was withdrawn; it outlives the version."""
    return f"withdrawn.{stage_key}"


def champion_version(client: Any, name: str, alias: str = CHAMPION) -> str | None:
    """Return the version that an alias points to; None if the alias is not set.

    Raises:
        RegistryError: the model does not exist.
    """
    aliases = _model(client, name).aliases
    return str(aliases[alias]) if alias in aliases else None


def apply(name: str, version: str, decision: Decision, workspace: Path = Path(), *, against: str | Literal["any"] | None = "any") -> bool:
    """Record a decision with the version, and move the aliases accordingly.

    A refused version becomes `challenger`, unless it was withdrawn. Applying the same decision again changes nothing.

    Args:
        name: registered model.
        version: the candidate.
        decision: the decision about it.
        workspace: folder of MLflow's records.
        against: version of the champion that the candidate was compared with; None: there was none; "any": it is not checked.

    Returns:
        False if the champion is another one by now: nothing was changed, and the candidate must be compared again.
    """
    client = open_registry(workspace)
    with locked(workspace):
        if against != "any" and champion_version(client, name) != against:
            return False
        if decision.unchanged:
            return True
        _record(client, name, version, decision)
        if decision.promote:
            promote(name, version, workspace)
        elif "withdrawn" not in client.get_model_version(name, version).tags and champion_version(client, name) != version:
            _move_alias(client, name, CHALLENGER, version)
        return True


def promote(name: str, version: str, workspace: Path = Path()) -> None:
    """Make a version the champion. The current champion becomes `previous_champion` first. Promoting the champion changes nothing.

    Raises:
        RegistryError: the version does not exist, or was withdrawn.
    """
    client = open_registry(workspace)
    with locked(workspace):
        tags = known_version(client, name, version).tags
        before = champion_version(client, name)
        if before == version:
            return
        if "withdrawn" in tags:
            raise RegistryError(
                "a withdrawn version cannot be promoted",
                field="version",
                value=f"{name} {version}",
                next_step=f"register another one; withdrawn by {tags['withdrawn']}",
            )
        if before is not None:
            _move_alias(client, name, PREVIOUS, before, needed=version)
        client.set_registered_model_alias(name, CHAMPION, version)
        if champion_version(client, name, CHALLENGER) == version:
            client.delete_registered_model_alias(name, CHALLENGER)


def rollback(name: str, *, who: str, why: str, workspace: Path = Path()) -> tuple[str, str | None]:
    """Withdraw the champion and restore the previous one; return (withdrawn version, new champion).

    Without a previous champion, or if that one was withdrawn itself, there is no champion afterwards, and the second value is None. The
    version is tagged as withdrawn first, so that the same call completes a rollback that a kill interrupted.

    Raises:
        RegistryError: there is no champion, or `who` or `why` is empty.
    """
    for field, value in (("who", who), ("why", why)):
        if not value.strip():
            raise RegistryError(
                "a rollback needs who and why",
                field=field,
                value=value,
                allowed="a text that is not empty",
                next_step=f"give --{field} TEXT",
            )
    client = open_registry(workspace)
    with locked(workspace):
        withdrawing, previous = champion_version(client, name), champion_version(client, name, PREVIOUS)
        if withdrawing is None:
            raise RegistryError("there is no champion to roll back", field="name", value=name, next_step="promote one: coat promote")
        if "withdrawn" not in client.get_model_version(name, withdrawing).tags:
            client.set_model_version_tag(name, withdrawing, "withdrawn_at", _now())
            client.set_model_version_tag(name, withdrawing, "withdrawn", f"{who.strip()}: {why.strip()}")
        restored = previous if previous != withdrawing and not _is_withdrawn(client, name, previous) else None
        if restored is not None:
            client.set_registered_model_alias(name, CHAMPION, restored)
        else:
            client.delete_registered_model_alias(name, CHAMPION)
        if previous is not None:
            client.delete_registered_model_alias(name, PREVIOUS)
    return withdrawing, restored


def _move_alias(client: Any, name: str, alias: str, version: str, *, needed: str = "") -> None:
    """Set an alias. The version that had it is tagged with the time, unless it has another one, or is `needed` for one."""
    before = champion_version(client, name, alias)
    client.set_registered_model_alias(name, alias, version)
    if before not in (None, needed) and before not in map(str, _model(client, name).aliases.values()):
        client.set_model_version_tag(name, before, SUPERSEDED_AT, _now())


def _is_withdrawn(client: Any, name: str, version: str | None) -> bool:
    return version is not None and "withdrawn" in client.get_model_version(name, version).tags


def _record(client: Any, name: str, version: str, decision: Decision) -> None:
    known = known_version(client, name, version)
    reasons = "\n".join(decision.reasons)
    if known.tags.get("decision") == decision.word and known.tags.get("decision_reasons") == reasons:
        return
    when = _now()
    for key, value in (("decision", decision.word), ("decision_reasons", reasons), ("decision_at", when)):
        client.set_model_version_tag(name, version, key, value)
    card = (known.description or "").partition(_DECISION)[0]
    lines = "".join(f"- {reason}\n" for reason in decision.reasons)
    client.update_model_version(name, version, description=f"{card}{_DECISION}**{decision.word.capitalize()}** ({when})\n\n{lines}")


def _model(client: Any, name: str) -> Any:
    from mlflow.exceptions import MlflowException

    try:
        return client.get_registered_model(name)
    except MlflowException as error:
        known = [model.name for model in client.search_registered_models()]
        raise RegistryError(
            "this registered model does not exist",
            field="name",
            value=name,
            allowed=known or "nothing is registered yet",
            next_step="register a release: coat register",
        ) from error


def known_version(client: Any, name: str, version: str) -> Any:
    """Return a version of a registered model.

    Raises:
        RegistryError: the model or the version does not exist.
    """
    from mlflow.exceptions import MlflowException

    _model(client, name)
    cause: Exception | None = None
    # MLflow reads the text as an integer: to it "01" and " 1" are version 1, and aliases would name another version than the records.
    if re.fullmatch("[1-9][0-9]{0,17}", str(version)):
        try:
            return client.get_model_version(name, version)
        except MlflowException as error:
            cause = error
    known = sorted((str(found.version) for found in client.search_model_versions(f"name='{name}'")), key=int)
    raise RegistryError(
        "this version does not exist",
        field="version",
        value=f"{name} {version}",
        allowed=known or "nothing is registered yet",
        next_step="register one: coat register",
    ) from cause


def remembered_withdrawal(client: Any, name: str, stage_key: str) -> dict[str, str]:
    """Return the tags of a new version whose stage key belonged to a withdrawn version that retention has removed; else none."""
    from mlflow.exceptions import MlflowException

    try:
        note = client.get_registered_model(name).tags.get(withdrawal_tag(stage_key))
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        note = None
    return {"withdrawn": note, "withdrawn_at": _now()} if note else {}


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
