"""Several hosts with one registry in PostgreSQL: one version for each release, one champion, artifacts that every host can read."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from coat_core.errors import RegistryError
from coat_core.registry import artifacts, database
from coat_core.registry.artifacts import check_location, experiment_root, new_root
from coat_core.registry.champions import apply
from coat_core.registry.comparison import compare
from coat_core.registry.gate import Decision
from coat_core.registry.releases import register_trial
from coat_core.storage import write_text
from tests.registry.conftest import BOOTSTRAP, NAME
from tests.testing.chain_runs import wait_for
from tests.testing.hosts import Host, hosts
from tests.testing.postgres import PASSWORD, PostgresServer, running
from tests.testing.served import TRIAL
from tests.testing.services import needs_postgres

ROOT = "MLFLOW_DEFAULT_ARTIFACT_ROOT"


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with running() as server:
        yield server


@pytest.fixture(scope="module")
def pair(server: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Host]]:
    """Two hosts with one empty database and one artifact root."""
    folder = tmp_path_factory.mktemp("hosts")
    places = [folder / name for name in ("a", "b", "artifacts")]
    for place in places:
        place.mkdir()
    variables = {"MLFLOW_TRACKING_URI": server.create("shared"), ROOT: str(places[2])}
    with hosts(places[:2], registry=True, **variables) as made:
        for host in made:
            host.ask("start")
        assert [host.answer() for host in made] == ["started"] * 2, "both find or create the tables"
        yield made


@pytest.fixture
def shared(server: PostgresServer, pair: list[Host], workspace: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """A function that copies the workspace to the hosts (default: both) and returns a client of their registry."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri("shared"))
    monkeypatch.setenv(ROOT, str(pair[0].workspace.parent / "artifacts"))

    def copy(*chosen: Host) -> Any:
        for host in chosen or pair:
            shutil.copytree(workspace, host.workspace, dirs_exist_ok=True, ignore=shutil.ignore_patterns("mlflow.db", "mlartifacts"))
        return database.connect(workspace)

    return copy


def versions(client: Any, name: str) -> list[str]:
    return sorted(str(found.version) for found in client.search_model_versions(f"name='{name}'"))


@needs_postgres
@pytest.mark.slow
def test_two_hosts_register_one_release_once(pair: list[Host], shared: Callable[..., Any], add_trial: Callable[..., str]) -> None:
    trial = add_trial()
    client = shared()
    for host in pair:
        host.ask("register", "coat-twice", trial)
    assert sorted(host.answer() for host in pair) == [["1", False], ["1", True]]
    assert versions(client, "coat-twice") == ["1"]
    location = client.get_model_version("coat-twice", "1").run_id
    assert client.get_run(location).info.artifact_uri.startswith(str(pair[0].workspace.parent / "artifacts"))


@needs_postgres
@pytest.mark.slow
def test_two_hosts_promote_and_the_better_release_is_champion(
    pair: list[Host], shared: Callable[..., Any], workspace: Path, add_trial: Callable[..., str]
) -> None:
    params = yaml.safe_load((Path(__file__).parents[2] / "params/tiny.yaml").read_text())
    params["registry"] |= {"min_above_chance": 0.0, "max_below_base": 0.02}
    write_text(workspace / "params.yaml", yaml.safe_dump(params))
    for host, right in zip(pair, (5, 9), strict=True):
        add_trial(TRIAL, right=(right, right), content=f"right {right}")
        client = shared(host)
    for host in pair:
        host.ask("promote", "qwen2_audio")
    answers = [host.answer() for host in pair]
    assert sorted(version for version, _ in answers) == versions(client, NAME) == ["1", "2"]
    aliases = client.get_registered_model(NAME).aliases
    assert str(aliases["champion"]) == answers[1][0], answers
    assert answers[1][1] == "promoted"


@needs_postgres
@pytest.mark.slow
def test_a_host_that_is_killed_while_it_registers_leaves_no_lock_and_no_second_version(
    server: PostgresServer, pair: list[Host], shared: Callable[..., Any], add_trial: Callable[..., str]
) -> None:
    trial = add_trial(content="killed")
    client = shared()
    first, second = pair
    locks = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"
    first.ask("register_and_die", "coat-killed", trial)
    # The second host asks while the first has the lock, or after its end: if it came first, nobody would be killed.
    assert wait_for(lambda: server.query(locks) == [(1,)] or psutil.Process(first.pid).status() == psutil.STATUS_ZOMBIE)
    second.ask("register", "coat-killed", trial)
    assert first.answer() is None
    assert second.answer() == ["1", True]
    assert versions(client, "coat-killed") == ["1"]
    assert server.query(locks) == [(0,)]


def test_a_shared_database_needs_an_artifact_root(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    uri = f"postgresql://ada:{PASSWORD}@db/mlflow"
    monkeypatch.delenv(ROOT, raising=False)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(RegistryError, match=rf"needs an artifact root.*{ROOT}.*allowed: s3://.*next step"):
        database.check_store()
    monkeypatch.setenv(ROOT, "mlartifacts")
    with pytest.raises(RegistryError, match=r"does not exist on this host.*mount"):
        new_root()
    monkeypatch.setenv(ROOT, "s3://bucket/prefix/")
    assert experiment_root(uri, NAME, tmp_path) == f"s3://bucket/prefix/{NAME}"
    assert experiment_root("http://tracking:5000", NAME, tmp_path) is None
    assert experiment_root("sqlite:////x/mlflow.db", NAME, tmp_path) == str(tmp_path / "mlartifacts")
    assert caplog.records == []
    monkeypatch.setenv(ROOT, str(tmp_path))
    with caplog.at_level(logging.WARNING, "coat"):
        assert new_root() == str(tmp_path)
    assert "every host needs it mounted" in caplog.text


@pytest.mark.parametrize(
    ("uri", "location", "refused"),
    [
        ("postgresql://db/x", "/absent/of/another/host", True),
        ("postgresql://db/x", "file:///absent/of/another/host", True),
        ("http://tracking:5000", "/absent/of/another/host", True),
        ("postgresql://db/x", "/tmp/coat", False),
        ("postgresql://db/x", "s3://bucket/x", False),
        ("http://tracking:5000", "mlflow-artifacts:/1", False),
        ("http://127.0.0.1:5000", "/absent/of/another/host", False),
        ("sqlite:////x/mlflow.db", "/absent/of/another/host", False),
    ],
)
def test_artifacts_in_a_folder_of_another_host_are_refused(uri: str, location: str, refused: bool) -> None:
    if refused:
        with pytest.raises(RegistryError, match=r"folder of another host: /absent.*mount"):
            check_location(uri, location)
    else:
        check_location(uri, location)
    assert artifacts.local_folder("s3://bucket/x") is None


def test_a_decision_against_another_champion_changes_nothing(workspace: Path, client: Any, register: Callable[..., str]) -> None:
    first, second = register(5, 5), register(9, 9)
    decision = compare(NAME, first, workspace, bootstrap=BOOTSTRAP)
    assert decision.champion is None
    assert apply(NAME, second, Decision(promote=True, reasons=("better",)), workspace, against=None)
    assert not apply(NAME, first, Decision(promote=True, reasons=("no champion",)), workspace, against=None)
    assert {alias: str(version) for alias, version in client.get_registered_model(NAME).aliases.items()} == {"champion": second}
    assert "decision" not in client.get_model_version(NAME, first).tags


def test_without_a_common_lock_the_later_of_two_versions_is_removed(
    workspace: Path, client: Any, add_trial: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another host registers between the search and the creation; the same happens when the answer of a server is lost."""
    from coat_core.registry import releases

    trial = add_trial()
    elsewhere: list[Any] = []
    real = releases._create_version

    def create(*arguments: Any) -> Any:
        if not elsewhere:
            elsewhere.append(real(*arguments))
        return real(*arguments)

    monkeypatch.setattr(releases, "_create_version", create)
    made = register_trial(workspace, NAME, trial)
    assert (made.version, made.created) == ("1", False)
    assert versions(client, NAME) == ["1"]
    assert register_trial(workspace, NAME, trial).version == "1"
