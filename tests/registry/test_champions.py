from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from coat_core.errors import RegistryError
from coat_core.registry.champions import champion_version, promote, rollback
from coat_core.registry.releases import register_trial
from coat_core.settings import RegistrySettings

NAME = "coat-qwen2-audio"


def aliases(client: Any) -> dict[str, str]:
    return {alias: str(version) for alias, version in client.get_registered_model(NAME).aliases.items()}


def test_the_first_good_version_becomes_champion_and_stays(client: Any, register: Callable[..., str], judge: Callable[..., str]) -> None:
    version = register(6, 6)
    assert judge(version) == "promoted"
    assert aliases(client) == {"champion": "1"}
    before = client.get_model_version(NAME, "1")
    assert before.tags["decision"] == "promoted"
    assert "there is no champion to compare with" in before.tags["decision_reasons"]
    assert "## Promotion decision" in before.description
    assert judge(version) == "unchanged"
    after = client.get_model_version(NAME, "1")
    assert (after.description, after.last_updated_timestamp) == (before.description, before.last_updated_timestamp)


def test_a_version_without_a_cold_load_is_refused(
    workspace: Path, client: Any, add_trial: Callable[..., str], judge: Callable[..., str]
) -> None:
    version = register_trial(workspace, NAME, add_trial()).version
    assert judge(version) == "refused"
    assert aliases(client) == {"challenger": "1"}


def test_a_worse_version_is_refused_with_reasons_and_a_better_one_is_promoted(
    client: Any, register: Callable[..., str], judge: Callable[..., str]
) -> None:
    judge(register(5, 5))
    worse = register(2, 4)
    assert judge(worse) == "refused"
    assert aliases(client) == {"champion": "1", "challenger": "2"}
    reasons = client.get_model_version(NAME, worse).tags["decision_reasons"]
    assert "improvement over the champion (version 1): -0.200" in reasons
    assert "music: 0.200 against 0.500" in reasons
    assert judge(register(10, 10)) == "promoted"
    assert aliases(client) == {"champion": "3", "previous_champion": "1", "challenger": "2"}


def test_a_promoted_challenger_loses_its_alias(client: Any, register: Callable[..., str], judge: Callable[..., str]) -> None:
    judge(register(5, 5))
    better = register(9, 9)
    assert judge(better, RegistrySettings(min_improvement=0.9)) == "refused"
    assert aliases(client)["challenger"] == better
    assert judge(better) == "promoted"
    assert aliases(client) == {"champion": better, "previous_champion": "1"}
    assert client.get_model_version(NAME, better).description.count("## Promotion decision") == 1


def test_rollback_restores_the_previous_champion_and_the_gate_refuses_the_withdrawn_one(
    workspace: Path, client: Any, register: Callable[..., str], judge: Callable[..., str]
) -> None:
    judge(register(5, 5))
    better = register(9, 9)
    judge(better)
    assert rollback(NAME, who="ada", why="clicks on silence", workspace=workspace) == (better, "1")
    assert aliases(client) == {"champion": "1"}
    assert client.get_model_version(NAME, better).tags["withdrawn"] == "ada: clicks on silence"
    assert judge(better) == "refused"
    assert "was withdrawn: ada: clicks on silence" in client.get_model_version(NAME, better).tags["decision_reasons"]
    assert aliases(client) == {"champion": "1"}, "a withdrawn version does not become challenger"
    with pytest.raises(RegistryError, match="withdrawn version cannot be promoted"):
        promote(NAME, better, workspace)
    assert rollback(NAME, who="ada", why="again", workspace=workspace) == ("1", None)
    assert aliases(client) == {}
    with pytest.raises(RegistryError, match="no champion to roll back"):
        rollback(NAME, who="ada", why="once more", workspace=workspace)
    assert champion_version(client, NAME) is None


@pytest.mark.parametrize("killed", ["not", "after-the-tag", "with-the-alias-of-the-same-version"])
def test_rollback_withdraws_a_first_champion(
    workspace: Path, client: Any, register: Callable[..., str], judge: Callable[..., str], killed: str
) -> None:
    judge(register(6, 6))
    if killed == "after-the-tag":
        client.set_model_version_tag(NAME, "1", "withdrawn", "ada: clicks")
    if killed == "with-the-alias-of-the-same-version":
        client.set_registered_model_alias(NAME, "previous_champion", "1")
    assert rollback(NAME, who="ada", why="clicks", workspace=workspace) == ("1", None)
    assert aliases(client) == {}
    assert client.get_model_version(NAME, "1").tags["withdrawn"] == "ada: clicks"
    assert judge("1") == "refused"
    assert judge(register(7, 7)) == "promoted"
    assert aliases(client) == {"champion": "2"}


def test_rollback_does_not_restore_a_withdrawn_version(
    workspace: Path, client: Any, register: Callable[..., str], judge: Callable[..., str]
) -> None:
    judge(register(5, 5))
    judge(register(9, 9))
    client.set_model_version_tag(NAME, "1", "withdrawn", "ada: noise")
    assert rollback(NAME, who="ada", why="clicks", workspace=workspace) == ("2", None)
    assert aliases(client) == {}


def test_the_same_call_completes_an_interrupted_rollback(
    workspace: Path, client: Any, register: Callable[..., str], judge: Callable[..., str]
) -> None:
    judge(register(5, 5))
    judge(register(9, 9))
    client.set_model_version_tag(NAME, "2", "withdrawn", "ada: clicks")
    assert rollback(NAME, who="ada", why="clicks", workspace=workspace) == ("2", "1")
    assert aliases(client) == {"champion": "1"}


def test_the_same_call_completes_an_interrupted_promotion(
    workspace: Path, client: Any, register: Callable[..., str], judge: Callable[..., str]
) -> None:
    judge(register(5, 5))
    better = register(9, 9)
    client.set_registered_model_alias(NAME, "previous_champion", "1")
    judge(better)
    assert aliases(client) == {"champion": better, "previous_champion": "1"}


@pytest.mark.parametrize(("who", "why"), [("", "why"), ("who", "  ")])
def test_rollback_requires_who_and_why(
    workspace: Path, register: Callable[..., str], judge: Callable[..., str], who: str, why: str
) -> None:
    judge(register(5, 5))
    with pytest.raises(RegistryError, match="who and why"):
        rollback(NAME, who=who, why=why, workspace=workspace)


def test_errors_list_the_existing_models_and_versions(workspace: Path, register: Callable[..., str]) -> None:
    register(5, 5)
    with pytest.raises(RegistryError, match=f"allowed: {NAME}"):
        rollback("coat-unknown", who="ada", why="typo", workspace=workspace)
    for wrong in ("7", "abc", "01", " 1", "1.0", "-1", "", "9" * 30):
        with pytest.raises(RegistryError, match=r"version does not exist.*allowed: 1"):
            promote(NAME, wrong, workspace)
    with pytest.raises(RegistryError, match="no champion"):
        rollback(NAME, who="ada", why="none yet", workspace=workspace)
