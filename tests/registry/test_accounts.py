"""An MLflow server with accounts (basic-auth): register, promote, doctor and retention; a wrong or a missing password is one line."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from coat_core.doctor import examine
from coat_core.errors import RegistryError, RegistryRefusedError
from coat_core.registry import cold_load, database, promotion
from coat_core.registry.champions import promote
from coat_core.registry.cold_load import ColdLoad
from coat_core.registry.lineage import lineage
from coat_core.registry.promotion import promote_candidate
from coat_core.registry.releases import register_trial
from coat_core.registry.retention import old_versions, remove_version
from coat_core.settings import load_settings
from tests.registry.conftest import NAME
from tests.testing.chain_runs import PARAMS, environment
from tests.testing.mlflow_server import ADMIN, PASSWORD, TrackingServer
from tests.testing.services import needs_accounts

pytestmark = [needs_accounts, pytest.mark.slow]
ROOT = Path(__file__).resolve().parents[2]
READER, READERS_PASSWORD = "reader", "secret-of-the-reader"
WRONG = "secret-but-wrong"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TrackingServer]:
    """A server with an administrator and a user who may read."""
    folder = tmp_path_factory.mktemp("server")
    made = TrackingServer(f"sqlite:///{folder / 'mlflow.db'}", folder, accounts=True)
    made.start()
    try:
        header = {"Authorization": f"Basic {base64.b64encode(f'{ADMIN}:{PASSWORD}'.encode()).decode()}", "Content-Type": "application/json"}
        body = json.dumps({"username": READER, "password": READERS_PASSWORD}).encode()
        urllib.request.urlopen(urllib.request.Request(f"{made.url}/api/2.0/mlflow/users/create", body, header), timeout=60).close()
        yield made
    finally:
        made.kill()


@pytest.fixture
def log_in(server: TrackingServer, monkeypatch: pytest.MonkeyPatch, workspace: Path) -> Callable[[str, str], None]:
    """Return a function that sets the account; the workspace uses the server and is the working directory."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.url)
    monkeypatch.chdir(workspace)
    shutil.copy(PARAMS, workspace / "params.yaml")

    def account(user: str, password: str) -> None:
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", user)
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", password)

    account(ADMIN, PASSWORD)
    return account


@pytest.fixture
def no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """The releases of these tests have no weights: the cold load is said to have answered."""
    monkeypatch.setattr(cold_load, "_run_process", lambda *arguments: ColdLoad("dog"))
    monkeypatch.setattr(promotion, "read_manifest", lambda path: [])


def test_an_account_registers_and_promotes_and_another_one_may_only_read(
    log_in: Callable[[str, str], None], no_model: None, workspace: Path, add_trial: Callable[..., str], server: TrackingServer
) -> None:
    settings = load_settings(workspace / "params.yaml")
    trial = add_trial()
    first = promote_candidate(workspace, settings, "qwen2_audio")
    assert (first.version, first.created, first.decision) == ("1", True, "promoted")
    add_trial(content="better", right=(10, 10))
    second = promote_candidate(workspace, settings, "qwen2_audio")
    assert (second.version, second.decision) == ("2", "promoted")
    assert promote_candidate(workspace, settings, "qwen2_audio").decision == "unchanged"
    assert any(path.name == "coat.json" for path in server.artifacts.rglob("*")), "the files went through the server"

    log_in(READER, READERS_PASSWORD)
    assert lineage(f"models:/{NAME}@champion", workspace)["version"] == "2"
    add_trial(content="the reader's", right=(9, 10))
    for write in (lambda: register_trial(workspace, NAME, trial), lambda: promote(NAME, "1", workspace)):
        with pytest.raises(RegistryRefusedError, match=r"refused the request; field: MLFLOW_TRACKING_URI; .*MLFLOW_TRACKING_USERNAME"):
            write()
    mine = register_trial(workspace, "coat-of-the-reader", trial)
    assert (mine.version, mine.created) == ("1", True)
    log_in(ADMIN, PASSWORD)
    assert [str(found.version) for found in database.connect(workspace).search_model_versions(f"name='{NAME}'")] == ["2", "1"]


def test_an_old_version_is_removed_through_the_server_by_who_may(
    log_in: Callable[[str, str], None], workspace: Path, add_trial: Callable[..., str], server: TrackingServer
) -> None:
    name = "coat-to-prune"
    for number in range(1, 4):
        register_trial(workspace, name, add_trial(content=f"{name}{number}"))
        client = database.connect(workspace)
        client.set_model_version_tag(name, str(number), "decision", "promoted")
        promote(name, str(number), workspace)
    (old,) = old_versions(workspace, [name], days=1, now=datetime.now(UTC) + timedelta(days=2))
    assert (old.version, old.why) == ("1", "superseded")
    location = client.get_logged_model(client.get_model_version(name, "1").source.removeprefix("models:/")).artifact_location
    files = server.artifacts / location.removeprefix("mlflow-artifacts:/")
    assert old.size == sum(path.stat().st_size for path in files.rglob("*") if path.is_file()) > 0
    log_in(READER, READERS_PASSWORD)
    with pytest.raises(RegistryError, match=r"cannot be removed|refused the request"):
        remove_version(workspace, old)
    assert (files / "MLmodel").is_file()
    log_in(ADMIN, PASSWORD)
    assert remove_version(workspace, old)
    assert not (files / "MLmodel").exists()


@pytest.mark.parametrize(
    ("user", "password", "words"),
    [
        pytest.param(ADMIN, PASSWORD, None, id="right"),
        pytest.param(ADMIN, WRONG, "refuses these credentials", id="wrong-password"),
        pytest.param("nobody", WRONG, "refuses these credentials", id="unknown-user"),
        pytest.param("", "", "refuses calls without credentials", id="none"),
    ],
)
def test_the_doctor_names_a_wrong_account(
    log_in: Callable[[str, str], None], workspace: Path, monkeypatch: pytest.MonkeyPatch, user: str, password: str, words: str | None
) -> None:
    monkeypatch.setattr("coat_core.doctor.used_modules", lambda: ["json"])
    log_in(user, password)
    (finding,) = [finding for finding in examine(workspace) if finding.name == "MLflow"]
    assert finding.ok is (words is None)
    assert words is None or words in finding.found
    assert "secret" not in f"{finding.found}{finding.advice}"


@pytest.mark.parametrize("user", [ADMIN, ""], ids=["wrong-password", "no-account"])
@pytest.mark.parametrize(
    "command",
    [("lineage", f"{NAME}@champion"), ("register", "qwen2_audio", "coat-0"), ("promote", "qwen2_audio"), ("rollback", "qwen2_audio")],
    ids=lambda command: command[0],
)
def test_a_wrong_password_is_one_line(
    server: TrackingServer, workspace: Path, add_trial: Callable[..., str], command: tuple[str, ...], user: str
) -> None:
    add_trial()
    shutil.copy(PARAMS, workspace / "params.yaml")
    account = {"MLFLOW_TRACKING_USERNAME": user, "MLFLOW_TRACKING_PASSWORD": WRONG} if user else {}
    arguments = [*command, *(("--why", "a test", "--who", "ada") if command[0] == "rollback" else ())]
    done = subprocess.run(
        [Path(sys.executable).with_name("python"), "-m", "coat_core.cli", *arguments], cwd=workspace, capture_output=True, text=True,
        env=environment(PYTHONPATH=str(ROOT), MLFLOW_TRACKING_URI=server.url, **account),
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"coat: the tracking server refused the request; field: MLFLOW_TRACKING_URI; value: '{server.url}'; next step: ")
    assert WRONG not in line
