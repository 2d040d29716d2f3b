"""Retention of versions: only those without an alias are old, and what was withdrawn stays withdrawn."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coat_core.errors import RegistryError
from coat_core.registry.champions import SUPERSEDED_AT, promote, rollback
from coat_core.registry.client import Client
from coat_core.registry.database import default_database
from coat_core.registry.releases import register_trial
from coat_core.registry.retention import _judge, old_versions, recorded_locks, remove_version
from coat_core.settings import RegistrySettings
from tests.registry.conftest import NAME

LATER = datetime.now(UTC) + timedelta(days=10)


def found(workspace: Path, days: int = 5, now: datetime = LATER, in_use: tuple[str, ...] = ()) -> dict[str, str]:
    return {item.version: item.why for item in old_versions(workspace, [NAME], days=days, in_use=in_use, now=now)}


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A place for the workspace with the four versions: making them takes a while."""
    return tmp_path_factory.mktemp("four") / "workspace"


@pytest.fixture
def four(workspace: Path, template: Path, request: pytest.FixtureRequest) -> None:
    """Versions 1 to 4, each promoted over the one before: 4 is champion, 3 the rollback target. Name it before `client`."""
    if template.is_dir():
        shutil.rmtree(workspace)
        shutil.copytree(template, workspace)
        return
    register, judge = request.getfixturevalue("register"), request.getfixturevalue("judge")
    for right in (5, 7, 8, 10):
        assert judge(register(right, right)) == "promoted"
    shutil.copytree(workspace, template)


def model(client: Any, version: str) -> str:
    """Return the id of a version's logged model."""
    return client.get_model_version(NAME, version).source.removeprefix("models:/")


def test_neither_the_champion_nor_the_rollback_target_is_old(four: None, workspace: Path, client: Any) -> None:
    assert found(workspace) == {"1": "superseded", "2": "superseded"}
    assert found(workspace, now=datetime.now(UTC)) == {}
    assert found(workspace, days=0, now=datetime.now(UTC) + timedelta(minutes=1)) == {"1": "superseded", "2": "superseded"}
    client.set_registered_model_alias(NAME, "reviewed", "2")
    assert found(workspace) == {"1": "superseded"}
    tags = client.get_model_version(NAME, "1").tags
    assert found(workspace, in_use=(tags["stage_key"],)) == {}
    assert tags[SUPERSEDED_AT] >= tags["decision_at"]
    for version in ("3", "4"):
        assert SUPERSEDED_AT not in client.get_model_version(NAME, version).tags


def test_the_age_counts_from_the_loss_of_the_alias(four: None, workspace: Path, client: Any) -> None:
    client.set_model_version_tag(NAME, "1", SUPERSEDED_AT, (LATER - timedelta(days=4)).isoformat(timespec="seconds"))
    assert found(workspace) == {"2": "superseded"}


def test_a_version_that_is_not_decided_about_or_is_challenger_is_not_old(
    four: None, workspace: Path, client: Any, register: Callable[..., str], judge: Callable[..., str]
) -> None:
    strict = RegistrySettings(min_improvement=0.9)
    assert judge(register(9, 9), strict) == "refused"
    assert "5" not in found(workspace)
    assert judge(register(9, 8), strict) == "refused"
    register(8, 9)
    assert found(workspace) == {"1": "superseded", "2": "superseded", "5": "superseded"}
    promote(NAME, "3", workspace)
    assert SUPERSEDED_AT not in client.get_model_version(NAME, "3").tags
    assert SUPERSEDED_AT not in client.get_model_version(NAME, "4").tags, "it is the rollback target now"


def test_a_removed_version_takes_its_files_and_leaves_its_run(four: None, workspace: Path, client: Any) -> None:
    version = client.get_model_version(NAME, "1")
    files = Path(client.get_logged_model(model(client, "1")).artifact_location)
    (old,) = [item for item in old_versions(workspace, [NAME], days=0, now=LATER) if item.version == "1"]
    assert old.size == sum(path.stat().st_size for path in files.rglob("*") if path.is_file()) > 0
    assert remove_version(workspace, old) is True
    assert not files.exists()
    assert found(workspace) == {"2": "superseded"}
    assert "lineage/dvc.lock" in {file.path for file in client.list_artifacts(version.run_id, "lineage")}
    assert client.get_run(version.run_id).info.lifecycle_stage == "active"
    assert len(list(recorded_locks(workspace))) == 3
    assert len(list(recorded_locks(workspace, without=[(NAME, "2")]))) == 2
    assert remove_version(workspace, old) is False, "it is gone"


def test_a_removal_that_was_killed_is_completed(four: None, workspace: Path, client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (old, _) = old_versions(workspace, [NAME], days=0, now=LATER)
    with monkeypatch.context() as patch:
        patch.setattr(Client, "delete_model_version", lambda *arguments: (_ for _ in ()).throw(KeyboardInterrupt), raising=False)
        with pytest.raises(KeyboardInterrupt):
            remove_version(workspace, old)
    assert "1" in found(workspace)
    assert remove_version(workspace, old) is True
    assert "1" not in found(workspace)


def test_what_was_withdrawn_stays_withdrawn(
    four: None, workspace: Path, client: Any, register: Callable[..., str], judge: Callable[..., str]
) -> None:
    assert rollback(NAME, who="ada", why="wrong answers", workspace=workspace) == ("4", "3")
    (old,) = [item for item in old_versions(workspace, [NAME], days=5, now=LATER) if item.why == "withdrawn"]
    assert (old.version, old.note) == ("4", "ada: wrong answers")
    assert remove_version(workspace, old)
    again = register(10, 10)
    assert again == "5"
    assert client.get_model_version(NAME, again).tags["withdrawn"] == "ada: wrong answers"
    assert judge(again) == "refused"
    assert "was withdrawn: ada: wrong answers" in client.get_model_version(NAME, again).tags["decision_reasons"]


def test_a_version_that_is_in_use_again_is_kept(four: None, workspace: Path, client: Any) -> None:
    old = old_versions(workspace, [NAME], days=0, now=LATER)
    client.set_registered_model_alias(NAME, "champion", "1")
    assert [remove_version(workspace, item) for item in old] == [False, True]
    assert (Path(client.get_logged_model(model(client, "1")).artifact_location) / "MLmodel").is_file()


def test_files_of_two_versions_are_kept(four: None, workspace: Path, client: Any) -> None:
    version = client.get_model_version(NAME, "1")
    files = Path(client.get_logged_model(model(client, "1")).artifact_location)
    client.create_registered_model("coat-other")
    with default_database(client.tracking_uri):
        client.create_model_version("coat-other", version.source, version.run_id)
    (old, _) = old_versions(workspace, [NAME], days=0, now=LATER)
    assert (old.version, old.size) == ("1", 0)
    assert remove_version(workspace, old)
    assert (files / "MLmodel").is_file()


def test_a_folder_that_is_not_the_models_own_is_never_removed(four: None, workspace: Path, client: Any) -> None:
    other = workspace / "precious"
    other.mkdir()
    with sqlite3.connect(workspace / "mlflow.db") as database:
        database.execute("UPDATE logged_models SET artifact_location = ? WHERE model_id = ?", (str(other), model(client, "1")))
    with pytest.raises(RegistryError, match=r"not its own.*remove coat-qwen2-audio version 1 by hand"):
        old_versions(workspace, [NAME], days=0, now=LATER)
    assert other.is_dir()


def test_a_model_that_is_not_registered_has_no_old_versions(workspace: Path, add_trial: Callable[..., str]) -> None:
    assert old_versions(workspace, ["coat-nothing"], days=0, now=LATER) == []
    register_trial(workspace, NAME, add_trial())
    assert found(workspace) == {}


class Version:
    def __init__(self, number: int, tags: dict[str, str]) -> None:
        self.version, self.tags, self.creation_timestamp = number, tags, 1_000_000_000_000


TAGS = st.dictionaries(
    st.sampled_from(["stage_key", "withdrawn", "withdrawn_at", "decision", "decision_at", SUPERSEDED_AT]),
    st.sampled_from(["", "x", "2026-01-01T00:00:00+00:00", "2026-01-01T00:00:00", "1999-01-01"]),
)


@settings(max_examples=300)
@given(tags=TAGS, aliases=st.frozensets(st.sampled_from("123")))
def test_a_version_with_an_alias_is_never_old_and_the_age_never_before_the_registration(
    tags: dict[str, str], aliases: frozenset[str]
) -> None:
    judged = _judge(Version(1, tags), aliases)
    if "1" in aliases or "stage_key" not in tags or not tags.keys() & {"withdrawn", "decision"}:
        assert judged is None
    else:
        assert judged is not None
        assert judged[0] == ("withdrawn" if "withdrawn" in tags else "superseded")
        assert judged[1] >= datetime.fromtimestamp(1_000_000_000, UTC)
