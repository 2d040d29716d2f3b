"""`coat demo` as a command: it opens the page, ends on SIGTERM, and refuses what it cannot do before it loads a model."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from coat_core.cli import main
from coat_core.demo.access import VARIABLE
from coat_core.servers import free_port

ROOT = Path(__file__).resolve().parents[2]
Run = Callable[..., tuple[int, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Return a function that runs `coat demo` in this process in a folder and returns its status and its errors."""

    def call(folder: Path, *arguments: str) -> tuple[int, str]:
        monkeypatch.chdir(folder)
        monkeypatch.delenv(VARIABLE, raising=False)
        monkeypatch.setattr(sys, "argv", ["coat", "demo", *arguments])
        with pytest.raises(SystemExit) as caught:
            main()
        return int(caught.value.code or 0), capsys.readouterr().err

    return call


def test_what_it_refuses(run: Run, workspace: Path, tmp_path: Path) -> None:
    for arguments, message in (
        (["--host", "0.0.0.0"], "needs credentials"),
        (["--auth-file", "absent"], "the credentials cannot be read"),
        (["--host", "no.such.host.invalid", "--auth-file", str(tmp_path / "secret")], "a server cannot use this address"),
        (["--device", "tpu"], "--device"),
        ([], "there are no releases here"),
        (["models/absent"], "neither a release folder nor a registered model"),
    ):
        (tmp_path / "secret").write_text("ann:a long password")
        status, errors = run(tmp_path, *arguments)
        assert status == 1
        assert message in errors
        assert "a long password" not in errors


def test_the_command_shows_the_page_until_it_is_ended(workspace: Path) -> None:
    port = free_port()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    environment.pop(VARIABLE, None)
    command = [sys.executable, "-m", "coat_core.cli", "demo", "--port", str(port), "--audio-s", "7"]
    with subprocess.Popen(command, cwd=workspace, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            assert "base-0" in process.stdout.readline()
            # The address is printed once it can be reached.
            assert f"http://127.0.0.1:{port}/" in process.stdout.readline()
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/") as reply:
                page = reply.read().decode()
            assert '"audio_s": 7.0' in page
            assert "coat-0" in page
        finally:
            process.send_signal(signal.SIGTERM)
        assert process.wait() == 143
