"""Before a server starts: the settings of Prefect's server, and the check of MLflow's store."""

from __future__ import annotations

import importlib.util
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from coat_core.errors import RegistryError
from flows.main import run_chain
from flows.server import serve

ROOT = Path(__file__).resolve().parents[2]
LEASES = "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE"


@pytest.mark.parametrize("configured", [None, "prefect.server.concurrency.lease_storage.memory"])
def test_leases_are_kept_in_files_unless_the_user_wants_another_place(monkeypatch: pytest.MonkeyPatch, configured: str | None) -> None:
    started: dict[str, Any] = {}
    monkeypatch.setattr("uvicorn.run", lambda *arguments, **named: started.update(named, leases=os.environ[LEASES]))
    monkeypatch.setattr("coat_core.watchdog.watch_owner", lambda: None)
    # Set first, so that what `serve` sets is removed after the test.
    for name in (LEASES, "PREFECT_SERVER_DATABASE_TIMEOUT", "PREFECT_SERVER_DATABASE_CONNECTION_TIMEOUT", "PREFECT_SERVER_UI_API_URL"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    if configured:
        monkeypatch.setenv(LEASES, configured)
    serve(4200)
    assert started["host"] == "127.0.0.1"
    assert started["leases"] == (configured or "prefect.server.concurrency.lease_storage.filesystem")
    assert importlib.util.find_spec(started["leases"]) is not None


def test_a_store_that_cannot_be_used_is_named_before_anything_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy(ROOT / "params/tiny.yaml", tmp_path / "params.yaml")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql://ada:geheim@127.0.0.1:9/db")
    monkeypatch.delenv("MLFLOW_DEFAULT_ARTIFACT_ROOT", raising=False)
    with pytest.raises(RegistryError, match="needs an artifact root"):
        run_chain(tmp_path, None)
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    monkeypatch.setenv("COAT_REGISTRY_LOCK", "sqlite:///x.db")
    with pytest.raises(RegistryError, match="the lock of the registry needs a PostgreSQL database"):
        run_chain(tmp_path, None)
    assert [path.name for path in tmp_path.iterdir()] == ["params.yaml"]
