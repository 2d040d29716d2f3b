"""The pages of Prefect and MLflow: each asks the API of its own server, and both end with `coat ui`."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from coat_core.errors import CoatError, RegistryError
from coat_core.registry import database
from flows.server import HOME, prefect_api, running_server
from flows.ui import show_pages

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an empty MLflow database; its name has characters that a URI quotes."""
    folder = tmp_path_factory.mktemp("ui") / "a #b %20 ?c=é"
    folder.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        database.tracking_uri(folder)
    return folder


@pytest.fixture(autouse=True)
def _no_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLFLOW_TRACKING_URI", "PREFECT_API_URL", "PREFECT_SERVER_UI_API_URL"):
        monkeypatch.delenv(name, raising=False)


def fetch(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=60) as reply:
        return json.loads(reply.read())


@pytest.mark.slow
def test_prefects_page_asks_the_server_of_the_run_and_coat_ui_shows_it_later(workspace: Path) -> None:
    with prefect_api(workspace) as url:
        assert fetch(f"{url.removesuffix('/api')}/ui-settings")["api_url"] == url
        assert running_server(workspace) == url
        assert (workspace / HOME / "prefect.db").is_file()
        assert [path.name for path in workspace.parent.iterdir()] == [workspace.name], "no file beside the workspace"
        assert "PREFECT_SERVER_UI_API_URL" not in os.environ, "another server in this process has another port"
        with _no_signals():
            printed: list[str] = []
            show_pages(workspace, start=False, echo=printed.append)
        # This process has set PREFECT_API_URL to the running server.
        assert printed[1].split()[1] == url.removesuffix("/api")
    assert running_server(workspace) is None
    assert (workspace / HOME / "prefect.db").is_file()

    command = [sys.executable, "-m", "coat_core.cli", "ui"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, cwd=workspace, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None
    lines = [process.stdout.readline() for _ in range(3)]
    links = dict(re.findall(r"(MLflow|Prefect) +(http://127\.0\.0\.1:\d+)", "".join(lines)))
    assert set(links) == {"MLflow", "Prefect"}, process.stderr.read() if process.stderr and process.poll() else lines
    assert fetch(f"{links['Prefect']}/ui-settings")["api_url"] == f"{links['Prefect']}/api"
    with urllib.request.urlopen(links["MLflow"], timeout=60) as reply:
        assert reply.status == 200
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 143
    assert "stopped" in errors
    assert "Traceback" not in errors
    for link in links.values():
        assert refuses(int(link.rpartition(":")[2]))


@contextmanager
def _no_signals() -> Iterator[None]:
    before = signal.getsignal(signal.SIGTERM)
    yield
    assert signal.getsignal(signal.SIGTERM) is before


def refuses(port: int) -> bool:
    """Return whether no process accepts connections on a port of the loopback interface, within some seconds."""
    for _ in range(100):
        with socket.socket() as sock:
            if sock.connect_ex(("127.0.0.1", port)):
                return True
        time.sleep(0.1)
    return False


def test_a_folder_without_records_is_refused_and_stays_empty(tmp_path: Path) -> None:
    with pytest.raises(RegistryError, match="no records of a run"):
        show_pages(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_commands_are_printed(workspace: Path, tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_bytes((workspace / "mlflow.db").read_bytes())
    (tmp_path / HOME).mkdir(parents=True)
    (tmp_path / HOME / "prefect.db").touch()
    printed: list[str] = []
    show_pages(tmp_path, start=False, mlflow_port=None, prefect_port=None, echo=printed.append)
    assert "-m mlflow server --backend-store-uri sqlite:///" in printed[0]
    assert re.search(r"PREFECT_SERVER_UI_API_URL=http://127.0.0.1:(\d+)/api .*flows.server --port \1$", printed[1])


def test_a_workspace_of_dvc_alone_has_no_page_in_prefect(workspace: Path, tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_bytes((workspace / "mlflow.db").read_bytes())
    printed: list[str] = []
    show_pages(tmp_path, start=False, echo=printed.append)
    assert "coat run has not run here" in printed[1]


def test_servers_elsewhere_are_named_and_nothing_is_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow.invalid:5000")
    monkeypatch.setenv("PREFECT_API_URL", "http://prefect.invalid:4200/api")
    printed: list[str] = []
    show_pages(tmp_path, echo=printed.append)
    assert [line.split()[:2] for line in printed] == [
        ["MLflow", "http://mlflow.invalid:5000"],
        ["Prefect", "http://prefect.invalid:4200"],
    ]
    assert list(tmp_path.iterdir()) == []


def test_a_port_in_use_is_named(workspace: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
        with pytest.raises(CoatError, match=f"{port}.*--port"):
            show_pages(workspace, mlflow_port=port)
