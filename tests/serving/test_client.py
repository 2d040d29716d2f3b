"""`coat ask --server` against the application on a loopback port."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from coat_core import cli
from coat_core.registry.packaging import tone_base64
from coat_core.servers import free_port
from coat_core.serving.app import make_app
from coat_core.serving.limits import Limits
from tests.serving.test_app import NAME, Echo
from tests.testing.app_server import app_server


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with app_server(make_app(NAME, Echo(), Limits(tokens=32))) as url:
        yield url


@pytest.fixture
def clip(tmp_path: Path) -> str:
    path = tmp_path / "clip.wav"
    path.write_bytes(base64.b64decode(tone_base64()))
    return str(path)


def ask(*arguments: str) -> Any:
    return CliRunner().invoke(cli.app, ["ask", *arguments])


def test_a_resident_model_answers(server: str, clip: str) -> None:
    found = ask(f"models:/{NAME}", clip, "What is it?", "--server", server)
    assert (found.exit_code, found.stdout) == (0, "What is it?\n")
    found = ask(NAME, clip, "It is rain", "--choices", "rain,wind", "--server", f"{server}/", "--max-new-tokens", "3")
    assert found.stdout == "It is rain\n"
    assert "coat: choice: rain" in found.stderr
    assert "cut off" in found.stderr


def test_refusals_of_the_server_and_of_the_address_are_one_message(server: str, clip: str) -> None:
    assert "this server has another model" in str(ask("coat-tiny/2", clip, "What?", "--server", server).exception)
    assert "the question is blank" in str(ask(NAME, clip, " ", "--server", server).exception)
    closed = f"http://127.0.0.1:{free_port()}"
    assert "no server answers" in str(ask(NAME, clip, "What?", "--server", closed).exception)
    assert "coat serve MODEL" in str(ask(NAME, clip, "What?", "--server", "nonsense").exception)
    assert "there is no such audio file" in str(ask(NAME, f"{clip}.gone", "What?", "--server", server).exception)
    assert ask(NAME, clip, "What?", "--server", server, "--json").exit_code == 2
