"""`coat serve` and what a user types for a model, against a tiny registered version."""

from __future__ import annotations

import base64
import json
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from coat_core.errors import CoatError, RegistryError
from coat_core.logs import KEYS
from coat_core.registry.references import existing_version, model_uri
from coat_core.serve import serve
from coat_core.servers import free_port
from tests.testing.served import QUESTION, Served

ROOT = Path(__file__).resolve().parents[2]
NAME = "coat-qwen2-audio"


@pytest.mark.slow
def test_a_version_is_served_without_an_activated_environment(served: Served, wav: Path) -> None:
    port = free_port()
    environment = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
    environment |= {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}
    command = [sys.executable, "-m", "coat_core.cli", "serve", f"{NAME}@champion", "--port", str(port), "--requests", "3"]
    with (served.workspace / "serve.log").open("w") as log:
        process = subprocess.Popen(command, cwd=served.workspace, stdout=subprocess.PIPE, stderr=log, text=True, env=environment)
    assert process.stdout is not None
    line = process.stdout.readline()
    assert f"http://127.0.0.1:{port}/v1/chat/completions and http://127.0.0.1:{port}/invocations" in line, (
        served.workspace / "serve.log"
    ).read_text()[-2000:]
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/ping", timeout=60) as reply:
        assert reply.status == 200
    body = json.dumps({"dataframe_records": [{"audio": str(wav), "question": QUESTION}]}).encode()
    request = urllib.request.Request(f"http://127.0.0.1:{port}/invocations", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=600) as reply:
        assert json.loads(reply.read()) == {"predictions": [{"answer": served.answer}]}
    parts = [
        {"type": "input_audio", "input_audio": {"data": base64.b64encode(wav.read_bytes()).decode(), "format": "wav"}},
        {"type": "text", "text": QUESTION},
    ]
    body = json.dumps({"messages": [{"role": "user", "content": parts}]}).encode()
    request = urllib.request.Request(f"http://127.0.0.1:{port}/v1/chat/completions", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=600) as reply:
        assert json.loads(reply.read())["choices"][0]["message"]["content"] == served.answer
    checks, url = [sys.executable, str(ROOT / "docker/served.py")], f"http://127.0.0.1:{port}"
    done = subprocess.run([*checks, "answers", url, str(wav), "3"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.findall(r"^\d+", done.stdout, re.M) == ["200"] * 3 + ["413"] + ["422"] * 4 + ["503", "200"]
    with subprocess.Popen([*checks, "drain", url, str(wav)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as drain:
        assert drain.stdout is not None
        accepted = drain.stdout.readline()
        process.send_signal(signal.SIGTERM)
        assert drain.wait(300) == 0, accepted + drain.stdout.read()
    process.communicate(timeout=120)
    assert process.returncode == 143
    with socket.socket() as sock:
        assert sock.connect_ex(("127.0.0.1", port))


@pytest.mark.slow
def test_the_log_of_a_served_version_is_lines_of_json(served: Served, wav: Path, client: Any) -> None:
    port = free_port()
    environment = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
    environment |= {"PYTHONPATH": str(ROOT), "COAT_LOG": "json"}
    command = [sys.executable, "-m", "coat_core.cli", "serve", f"{NAME}@champion", "--port", str(port), "--body-mb", "0.1"]
    process = subprocess.Popen(command, cwd=served.workspace, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    assert process.stderr is not None
    lines = []
    for text in process.stderr:
        lines.append(json.loads(text))
        if "is served at" in lines[-1]["message"]:
            break
    url, header = f"http://127.0.0.1:{port}/invocations", {"Content-Type": "application/json"}
    payload = json.dumps({"dataframe_records": [{"audio": str(wav), "question": QUESTION}]}).encode()
    urllib.request.urlopen(urllib.request.Request(url, payload, header), timeout=600).close()
    with pytest.raises(urllib.error.HTTPError, match="413"):
        urllib.request.urlopen(urllib.request.Request(url, b"x" * 200_000, header), timeout=600)
    process.send_signal(signal.SIGTERM)
    printed, rest = process.communicate(timeout=120)
    assert printed == ""
    lines += [json.loads(text) for text in rest.splitlines()]
    assert all(set(KEYS) <= line.keys() for line in lines)
    requests = [line for line in lines if line["event"] == "request"]
    assert [(line["path"], line["status"]) for line in requests] == [("/invocations", 200), ("/invocations", 413)]
    assert all(line["model"] == f"models:/{NAME}@champion" and line["seconds"] >= 0 for line in requests)
    assert {line["mlflow_run"] for line in requests} == {client.get_model_version(NAME, "1").run_id}
    assert [line["event"] for line in lines if line["logger"] == "coat" and line["event"] != "output"] == [
        "model_loaded", "request", "request", "server_stopped",
    ]  # fmt: skip


def test_a_port_in_use_and_other_mistakes_start_no_server(registered: Path, wav: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock, pytest.raises(CoatError, match="another port"):
        serve(f"models:/{NAME}/1", sock.getsockname()[1])
    port = free_port()
    for model, message in ((f"{NAME}@nobody", "no alias nobody"), ("models", "only a registered version"), (str(wav), "only a registered")):
        with pytest.raises(RegistryError, match=message):
            serve(model, port)
    with pytest.raises(CoatError, match="no such device"):
        serve(f"{NAME}/1", port, device="abacus")
    with pytest.raises(CoatError, match="cannot use this address"):
        serve(f"{NAME}/1", port, host="203.0.113.7")


@pytest.fixture
def registered(workspace: Path, client: Any, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A workspace with version 1, the champion, without files; it is the working directory."""
    client.create_registered_model(NAME)
    client.create_model_version(NAME, source=str(workspace))
    client.set_registered_model_alias(NAME, "champion", "1")
    monkeypatch.chdir(workspace)
    return workspace


def test_the_short_forms_name_the_same_version(registered: Path) -> None:
    for text in (f"models:/{NAME}@champion", f"{NAME}@champion"):
        assert model_uri(text) == f"models:/{NAME}@champion"
    for text in (f"models:/{NAME}/1", f"{NAME}/1"):
        assert existing_version(text) == f"models:/{NAME}/1"
    (registered / f"{NAME}@champion").mkdir()
    assert model_uri(f"{NAME}@champion") is None, "a folder of this name is meant"
    assert model_uri("models/nothing") is None


@pytest.mark.parametrize(
    ("text", "messages"),
    [
        (f"{NAME}@champio", ["has no alias champio", f"models:/{NAME}@champion"]),
        (f"models:/{NAME}/7", ["has no version 7", f"models:/{NAME}/1"]),
        ("models:/coat-qwen2-audi@champion", ["no registered model has this name", f"did you mean models:/{NAME}@champion?"]),
        ("entirely-other/1", ["no registered model has this name", NAME]),
        (NAME, ["needs a version or an alias", f"models:/{NAME}@champion"]),
        (f"models:/{NAME}", ["does not name a version"]),
        (f"models:/{NAME}/abc", ["does not name a version"]),
        ("models:/", ["does not name a version"]),
        (f"models:/{NAME}@", ["does not name a version"]),
    ],
    ids=["alias", "version", "near-name", "other-name", "no-version", "uri-without-version", "version-word", "empty", "empty-alias"],
)
def test_a_wrong_reference_says_what_exists(registered: Path, text: str, messages: list[str]) -> None:
    with pytest.raises(RegistryError) as caught:
        existing_version(text)
    assert all(message in str(caught.value) for message in messages), caught.value


def test_no_database_is_created_for_a_reference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for text in ("coat-qwen2-audio@champion", "models:/coat-qwen2-audio/1", "nonsense", "a/b/c"):
        with pytest.raises(RegistryError):
            existing_version(text)
    assert list(tmp_path.iterdir()) == []
