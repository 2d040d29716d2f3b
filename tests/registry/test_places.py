"""Workspaces in unusual places: paths with URI characters, folders without a registry, folders that cannot be written."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mlflow.exceptions import MlflowException

from coat_core.errors import RegistryError, RegistryRefusedError, RegistryUnavailableError
from coat_core.registry import database
from coat_core.registry.champions import promote, rollback
from coat_core.registry.client import Client
from coat_core.registry.cold_load import load_cold
from coat_core.registry.comparison import compare
from coat_core.registry.lineage import lineage
from coat_core.registry.releases import register_trial
from coat_core.registry.tracking import find_run
from coat_core.registry.versions import model_folder, unpack
from coat_core.settings import RegistrySettings
from tests.registry.conftest import BOOTSTRAP, NAME
from tests.testing.http_server import answering


@pytest.mark.parametrize(
    "folder",
    [
        pytest.param("a#b", id="fragment"),
        pytest.param("a%20b", id="percent"),
        pytest.param("a?b", id="query"),
        pytest.param("a b", id="space"),
        pytest.param("é%23 #?x", id="all-of-them-in-unicode"),
    ],
)
def test_a_workspace_path_may_contain_characters_of_uris(
    workspace: Path, add_trial: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str
) -> None:
    monkeypatch.chdir(tmp_path)
    trial = add_trial(right=(8, 8))
    place = tmp_path / folder
    shutil.copytree(workspace, place)
    client = database.connect(place)
    version = register_trial(place, NAME, trial).version
    client.set_model_version_tag(NAME, version, "probe", "passed")
    client.set_model_version_tag(NAME, version, "probe_answer", "a tone")
    decision = compare(NAME, version, place, bootstrap=BOOTSTRAP).decide(RegistrySettings())
    assert decision.promote, decision.reasons
    promote(NAME, version, place)
    uri = f"models:/{NAME}@champion"
    assert lineage(uri, place)["run"]["tracking_uri"] == "sqlite:///mlflow.db"
    assert place in model_folder(uri, place).parents
    assert (unpack(uri, tmp_path / "unpacked", place) / "adapter_model.safetensors").read_text() == "weights "
    moved = tmp_path / "moved % place"
    shutil.move(place, moved)
    assert moved in model_folder(uri, moved).parents
    assert rollback(NAME, who="ada", why="clicks", workspace=moved) == ("1", None)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["moved % place", "unpacked", "workspace"]
    assert not list(Path().glob("file:*")), "no folder of a URI in the working directory"


READERS: dict[str, Callable[[Path], object]] = {
    "lineage": lambda place: lineage(f"models:/{NAME}/1", place),
    "promote": lambda place: promote(NAME, "1", place),
    "rollback": lambda place: rollback(NAME, who="ada", why="clicks", workspace=place),
    "compare": lambda place: compare(NAME, "1", place, bootstrap=BOOTSTRAP),
    "cold-load": lambda place: load_cold(NAME, "1", place),
    "model-folder": lambda place: model_folder(f"models:/{NAME}@champion", place),
}


@pytest.mark.parametrize("reader", READERS)
def test_a_folder_without_a_registry_gets_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reader: str) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(RegistryError, match=r"there is no registry here.*mlflow\.db.*next step"):
        READERS[reader](tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / ".scratch").write_text("a file where a folder must be")
    with pytest.raises(RegistryError, match=r"registry cannot be written.*workspace.*writable"):
        database.connect(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [".scratch"]


@pytest.mark.parametrize("reader", ["promote", "rollback"])
def test_a_registry_without_a_lock_folder_is_named(
    workspace: Path, register: Callable[..., str], judge: Callable[..., str], reader: str
) -> None:
    judge(register(8, 8))
    shutil.rmtree(workspace / ".scratch")
    (workspace / ".scratch").write_text("a file where a folder must be")
    with pytest.raises(RegistryError, match="registry cannot be written"):
        READERS[reader](workspace)
    assert lineage(f"models:/{NAME}/1", workspace)["aliases"] == ["champion"]


@pytest.mark.parametrize(
    ("raised", "said"),
    [
        pytest.param(MlflowException("(sqlite3.OperationalError) attempt to write a readonly database"), "cannot be written", id="sqlite"),
        pytest.param(PermissionError(13, "Permission denied"), "cannot be written", id="artifacts"),
        pytest.param(MlflowException("API request failed: Max retries exceeded with url"), "server is unreachable", id="server"),
    ],
)
def test_an_error_of_the_place_is_no_traceback(client: Client, monkeypatch: pytest.MonkeyPatch, raised: Exception, said: str) -> None:
    def fail(*arguments: Any) -> None:
        raise raised

    monkeypatch.setattr(client._client, "get_registered_model", fail)
    with pytest.raises(RegistryError, match=said):
        client.get_registered_model(NAME)


@pytest.mark.parametrize("number", ["7", "abc", "01", "1.0", "-1", "9" * 30])
def test_an_unknown_version_lists_the_known_ones(workspace: Path, add_trial: Callable[..., str], number: str) -> None:
    register_trial(workspace, NAME, add_trial())
    for reader in (lambda: lineage(f"models:/{NAME}/{number}", workspace), lambda: load_cold(NAME, number, workspace)):
        with pytest.raises(RegistryError, match=f"allowed: .*models:/{NAME}/1|allowed: models:/NAME/VERSION"):
            reader()


@pytest.mark.parametrize(
    ("status", "kind", "retryable", "said"),
    [
        (401, RegistryRefusedError, False, "MLFLOW_TRACKING_USERNAME"),
        (403, RegistryRefusedError, False, "MLFLOW_TRACKING_USERNAME"),
        (503, RegistryUnavailableError, True, "unreachable"),
        (None, RegistryUnavailableError, True, "start the server"),
    ],
)
def test_a_server_that_refuses_or_is_down_is_one_message(
    status: int | None, kind: type[RegistryError], retryable: bool, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with answering(lambda *_: status or 200) as url:
        client = Client(url if status else "http://127.0.0.1:9", tmp_path)
        with pytest.raises(kind, match=said) as caught:
            client.get_registered_model(NAME)
        assert caught.value.retryable is retryable
        if status == 403:
            assert find_run(client, "0" * 32) is None, "to a server with accounts, an unknown run is one that is not allowed"
