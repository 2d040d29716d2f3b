"""`coat doctor` on servers: up, with the right credentials, and not open to the network."""

from __future__ import annotations

import base64
from collections.abc import Callable
from pathlib import Path

import pytest

from coat_core.doctor import Finding, examine
from tests.testing.http_server import answering

LOGIN = "me:secret-of-the-tests"
HEADER = f"Basic {base64.b64encode(LOGIN.encode()).decode()}"
SERVERS = {"MLflow": "MLFLOW_TRACKING_URI", "Prefect": "PREFECT_API_URL"}


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coat_core.doctor.used_modules", lambda: ["json"])
    for name in (*SERVERS.values(), "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "PREFECT_API_AUTH_STRING"):
        monkeypatch.delenv(name, raising=False)


def login(monkeypatch: pytest.MonkeyPatch, text: str = LOGIN) -> None:
    user, _, password = text.partition(":")
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", user)
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", password)
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", text)


def guarded(path: str, header: str | None) -> int:
    return 200 if path.endswith("/health") or header == HEADER else 401


def open_to_all(path: str, header: str | None) -> int:
    return 200


def found(name: str, folder: Path) -> Finding:
    (finding,) = [finding for finding in examine(folder) if finding.name == name]
    assert "secret" not in f"{finding.found} {finding.advice}"
    return finding


@pytest.mark.parametrize("name", SERVERS)
@pytest.mark.parametrize(
    ("host", "server", "given", "words"),
    [
        pytest.param("127.0.0.1", open_to_all, None, None, id="open, only for this host"),
        pytest.param("127.0.0.1", guarded, LOGIN, None, id="guarded"),
        pytest.param("127.0.0.1", guarded, None, "refuses calls without credentials", id="no credentials"),
        pytest.param("127.0.0.1", guarded, "me:secret-but-wrong", "refuses these credentials", id="wrong credentials"),
        pytest.param("0.0.0.0", guarded, LOGIN, None, id="guarded, for other hosts"),
        pytest.param("0.0.0.0", open_to_all, LOGIN, "answers calls without credentials", id="open to the network"),
    ],
)
def test_a_server_is_up_accepts_the_credentials_and_is_not_open(
    name: str, host: str, server: Callable[[str, str | None], int], given: str | None, words: str | None, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    if given:
        login(monkeypatch, given)
    with answering(server, host) as url:
        monkeypatch.setenv(SERVERS[name], url)
        finding = found(name, tmp_path)
    assert finding.ok == (words is None)
    if words:
        assert words in finding.found


@pytest.mark.parametrize("name", SERVERS)
def test_a_server_that_is_down_is_a_finding_without_its_password(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SERVERS[name], f"http://{LOGIN}@127.0.0.1:9")
    finding = found(name, tmp_path)
    assert not finding.ok
    assert finding.advice.startswith("start it")
