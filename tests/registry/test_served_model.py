"""The registered model as its users load it: by alias, and served over HTTP."""

from __future__ import annotations

import base64
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from coat_core.errors import RegistryError
from coat_core.registry.cold_load import load_served, predict
from coat_core.registry.database import connect, default_database
from coat_core.registry.packaging import save_served, unsafe_files
from tests.testing.served import QUESTION, Served, write_loadable_release

ROOT = Path(__file__).resolve().parents[2]
NAME = "coat-qwen2-audio"


def table(*rows: tuple[Any, Any]) -> Any:
    import pandas as pd

    return pd.DataFrame(list(rows), columns=pd.Index(["audio", "question"], dtype=object))


def test_the_model_of_an_alias_answers_paths_and_base64_like_the_release(served: Served, wav: Path) -> None:
    shutil.rmtree(served.workspace / "bases")
    shutil.rmtree(served.workspace / "models")
    encoded = base64.b64encode(wav.read_bytes()).decode()
    uri = f"models:/{NAME}@champion"
    with default_database(connect(served.workspace).tracking_uri):
        import mlflow

        model = mlflow.pyfunc.load_model(uri)
    answers = model.predict(table((str(wav), QUESTION), (encoded, QUESTION), (f"data:audio/wav;base64,{encoded}", QUESTION)))
    assert answers["answer"].tolist() == [served.answer] * 3
    assert served.answer.strip(), "the answer of the random base is not empty"
    assert model.predict(table())["answer"].tolist() == []


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (("missing.wav", QUESTION), "row 1.*missing.wav"),
        (("UklGR!!!", QUESTION), "row 1: the audio is not base64"),
        ((base64.b64encode(b"RIFF1234 no wave at all").decode(), QUESTION), "row 1"),
        (("", QUESTION), "row 1 has no audio"),
        (("tone.wav", "  "), "row 1 has no question"),
    ],
)
def test_the_error_names_the_invalid_row(wav: Path, row: tuple[str, str], message: str) -> None:
    from coat_core.registry.packaging import import_pyfunc

    import_pyfunc()
    from coat_core.registry.served_model import read_table

    with pytest.raises(RegistryError, match=message):
        read_table(table((str(wav), QUESTION), row))


@pytest.mark.parametrize("key", ["qwen2_audio", "qwen2_5_omni", "audio_flamingo_3"])
def test_every_backbone_is_packed_without_a_pickle_and_answers(
    workspace: Path, tiny_bases: dict[str, Path], wav: Path, key: str, tmp_path: Path
) -> None:
    release = write_loadable_release(workspace, tiny_bases, key)
    folder = tmp_path / "model"
    save_served(folder, release, workspace)
    assert unsafe_files(folder) == ()
    assert predict(load_served(folder), str(wav), QUESTION).strip()
    assert not [path for path in folder.rglob("*") if path.suffix in (".pkl", ".bin", ".pyc")]


@pytest.mark.parametrize("merge", [False, True])
def test_a_registered_version_is_exported_with_the_base_that_was_packed_with_it(served: Served, tmp_path: Path, merge: bool) -> None:
    from coat_core.export.export import export

    shutil.rmtree(served.workspace / "bases")
    done = export(f"models:/{NAME}@champion", tmp_path / "out", merge=merge, dtype="float32" if merge else None, progress=str)
    base = json.loads((done.folder / "export.json").read_text())["base"]
    assert base == {"id": "bases/qwen2_audio", "revision": None, "licence": "Apache-2.0"}
    names = {path.name for path in done.folder.iterdir()}
    assert ("base" in names, "model.safetensors" in names) == (not merge, merge)
    scope: dict[str, Any] = {}
    exec(compile(done.usage, "usage", "exec"), scope)
    with pytest.raises(RegistryError, match="coat-unknown"):
        export("models:/coat-unknown/1", tmp_path / "other", merge=merge, progress=str)
    assert not (tmp_path / "other").exists()


def test_an_environment_variable_sets_the_dtype_of_a_served_model(
    workspace: Path, tiny_bases: dict[str, Path], wav: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import transformers

    seen: list[Any] = []
    stock = transformers.Qwen2AudioForConditionalGeneration
    load = stock.from_pretrained
    monkeypatch.setattr(stock, "from_pretrained", lambda *args, **kwargs: seen.append(kwargs["dtype"]) or load(*args, **kwargs))
    folder = tmp_path / "model"
    save_served(folder, write_loadable_release(workspace, tiny_bases, "qwen2_audio", dtype="bfloat16"), workspace)
    # The default is the dtype of training.
    for requested, dtype in ((None, torch_float("bfloat16")), ("float32", torch_float("float32"))):
        if requested is not None:
            monkeypatch.setenv("COAT_DTYPE", requested)
        seen.clear()
        assert predict(load_served(folder), str(wav), QUESTION).strip()
        assert seen == [dtype]
    monkeypatch.setenv("COAT_DTYPE", "int4")
    with pytest.raises(RegistryError, match="COAT_DTYPE"):
        load_served(folder)


def torch_float(name: str) -> Any:
    import torch

    return getattr(torch, name)


@pytest.fixture
def server(served: Served) -> Iterator[str]:
    """`mlflow models serve` on a loopback port, in its own process session."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    environment = os.environ | {
        "MLFLOW_TRACKING_URI": connect(served.workspace).tracking_uri,
        "PYTHONPATH": str(ROOT),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    command = [
        sys.executable,
        "-m",
        "mlflow",
        "models",
        "serve",
        "-m",
        f"models:/{NAME}@champion",
        "--env-manager",
        "local",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--workers",
        "1",
    ]
    log = served.workspace / "serve.log"
    with log.open("w") as stream:
        process = subprocess.Popen(command, env=environment, stdout=stream, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        for _ in range(3600):
            if process.poll() is not None:
                pytest.fail(log.read_text()[-2000:])
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/ping", timeout=2):
                    break
            except OSError:
                time.sleep(0.5)
        else:
            pytest.fail(log.read_text()[-2000:])
        yield f"http://127.0.0.1:{port}/invocations"
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(20)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_mlflow_serves_a_version_over_http(server: str, served: Served, wav: Path) -> None:
    def post(*records: dict[str, str]) -> Any:
        body = json.dumps({"dataframe_records": records}).encode()
        request = urllib.request.Request(server, body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=1800) as reply:
            return json.loads(reply.read())

    encoded = base64.b64encode(wav.read_bytes()).decode()
    assert post({"audio": encoded, "question": QUESTION}) == {"predictions": [{"answer": served.answer}]}
    with pytest.raises(urllib.error.HTTPError) as caught:
        post({"audio": "missing.wav", "question": QUESTION})
    assert b"row 0" in caught.value.read()
    caught.value.close()
