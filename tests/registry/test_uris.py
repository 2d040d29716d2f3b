"""A tracking URI is shown and recorded without its password, in every place."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from coat_core.doctor import examine
from coat_core.registry.client import Client
from coat_core.registry.uris import login_of, page_of, portable, secrets, without_secrets
from coat_core.storage import write_json

PASSWORD = "geheim"  # a word that occurs nowhere else
SERVER, DATABASE = f"http://ada:{PASSWORD}@127.0.0.1:9/x", f"postgresql://ada:{PASSWORD}@127.0.0.1:9/db"


@pytest.mark.parametrize(
    ("uri", "shown", "found"),
    [
        ("sqlite:////home/ada/coat/mlflow.db", "sqlite:///mlflow.db", set()),
        ("http://tracking:5000", "http://tracking:5000", set()),
        ("http://tracking:5000/a@b", "http://tracking:5000/a@b", set()),
        ("http://ada:secret@tracking:5000/x", "http://tracking:5000/x", {"secret"}),
        ("http://ada:s@ecret@tracking:5000/x", "http://tracking:5000/x", {"s@ecret"}),
        ("postgresql://ada:secret@db/mlflow", "postgresql://db/mlflow", {"secret"}),
        ("postgresql://ada@db/mlflow", "postgresql://db/mlflow", set()),
        ("postgresql://ada:p%40ss@db/mlflow", "postgresql://db/mlflow", {"p%40ss", "p@ss"}),
        ("postgresql://ada:s/e?c#ret@db:5432/mlflow", "postgresql://db:5432/mlflow", {"s/e?c#ret"}),
        ("postgresql+psycopg://ada:s@ecret@db/mlflow", "postgresql+psycopg://db/mlflow", {"s@ecret"}),
        ("postgresql:///mlflow?host=/run&user=ada&password=secret", "postgresql:///mlflow?host=/run", {"secret"}),
        ("postgresql://db/mlflow?sslmode=require&sslpassword=secret", "postgresql://db/mlflow?sslmode=require", {"secret"}),
        ("", "", set()),
    ],
)
def test_a_uri_is_shown_without_its_account(uri: str, shown: str, found: set[str]) -> None:
    assert portable(uri) == shown
    assert secrets(uri) == found
    text = without_secrets(f"cannot open {uri}: {' '.join(found)} is wrong", uri)
    assert not any(secret in text for secret in found)
    assert not any(secret in page_of(uri) for secret in found)


def test_the_account_of_a_server_is_read_from_its_uri() -> None:
    assert login_of("http://ada:p%40ss@tracking:5000/x") == "ada:p@ss"
    assert login_of("http://tracking:5000") is None


@pytest.mark.parametrize(
    ("uri", "page"),
    [
        ("http://tracking:5000", "http://tracking:5000"),
        (SERVER, "http://127.0.0.1:9/x"),
        ("sqlite:////a b/mlflow.db", ".venv/bin/mlflow ui --backend-store-uri 'sqlite:////a b/mlflow.db'"),
        (DATABASE, 'MLFLOW_BACKEND_STORE_URI="$MLFLOW_TRACKING_URI" .venv/bin/mlflow ui  (postgresql://127.0.0.1:9/db)'),
    ],
)
def test_the_page_is_an_address_or_a_command(uri: str, page: str) -> None:
    assert page_of(uri) == page


@pytest.mark.parametrize(
    "uri", [SERVER, DATABASE, f"postgresql://ada:{PASSWORD}@127.0.0.1:nine/db", f"http://ada:{PASSWORD}@tracking.invalid"]
)
def test_doctor_shows_no_password(uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coat_core.doctor.used_modules", lambda: ["json"])
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("MLFLOW_DEFAULT_ARTIFACT_ROOT", "s3://bucket/x")
    monkeypatch.setenv("PREFECT_API_URL", f"http://ada:{PASSWORD}@127.0.0.1:9/api")
    findings = [finding for finding in examine(tmp_path) if finding.name in ("MLflow", "Prefect", "registry lock")]
    assert [finding.ok for finding in findings if finding.name in ("MLflow", "Prefect")] == [False, False]
    assert PASSWORD not in str(findings)


def test_an_error_of_mlflow_that_repeats_the_uri_has_no_password(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="unsupported URI") as caught:
        Client(f"unknown://ada:{PASSWORD}@db/mlflow", tmp_path)
    assert PASSWORD not in str(caught.value)


def test_pages_and_artifacts_show_no_password(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from flows import records, ui

    made: list[Any] = []

    def keep(kind: str) -> Callable[..., None]:
        return lambda *values, **named: made.append((kind, values, named))

    monkeypatch.setattr("prefect.artifacts.create_markdown_artifact", keep("markdown"))
    monkeypatch.setattr("prefect.artifacts.create_link_artifact", keep("link"))
    monkeypatch.setattr("coat_core.registry.database.tracking_uri", lambda workspace: DATABASE)
    (tmp_path / "report").mkdir()
    (tmp_path / "report/tables.md").write_text("x")
    write_json(tmp_path / "report/results.json", {"backbones": {}})
    pages = []
    for uri in (SERVER, DATABASE):
        monkeypatch.setattr(records, "tracking_uri", lambda workspace, uri=uri: uri)
        records.publish_results(tmp_path, [{"model": "m", "version": "1", "decision": "promoted", "reasons": []}])
        pages.append((tmp_path / "report/decisions.html").read_text())
    assert [kind for kind, *_ in made].count("link") == 1
    printed: list[str] = []
    for uri in (SERVER, DATABASE):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        monkeypatch.setenv("PREFECT_API_URL", f"http://ada:{PASSWORD}@127.0.0.1:9/api")
        ui.show_pages(tmp_path, start=False, echo=printed.append)
    assert "/#/models/m/versions/1" in pages[0]
    assert PASSWORD not in f"{made} {printed} {pages}"
    assert 'MLFLOW_BACKEND_STORE_URI="$MLFLOW_TRACKING_URI"' in printed[2]
