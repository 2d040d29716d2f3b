"""The registered model, as others use it: loaded by its alias, served over HTTP, probed cold."""

from __future__ import annotations

import base64
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import wave
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coat_core.errors import RegistryError
from coat_core.registry import serving
from coat_core.registry.cold_load import probe
from coat_core.registry.database import connect, default_database
from coat_core.registry.packaging import read_info, save_served, unsafe_files
from coat_core.registry.releases import register_trial

ROOT = Path(__file__).resolve().parents[2]
NAME, TRIAL = "coat-qwen2-audio", "qwen2_audio-coat-0"
QUESTION = "What sound is this? Choices: dog bark, siren, rain."


def write_true_release(workspace: Path, bases: dict[str, Path], key: str, *, scale: float = 0.3, dtype: str = "float32") -> Path:
    """Write a release of the arm coat on a tiny base that is copied into the workspace."""
    import shutil

    import torch

    from coat_core.backbones.catalogue import load_backbone
    from coat_core.experts.base import ExpertSpec
    from coat_core.settings import HeadSettings, LoraSettings, LossSettings, ThinkingSettings
    from coat_core.thinking.block import ThinkingBlock
    from coat_core.thinking.heads import build_heads
    from coat_core.thinking.info import BaseInfo, ReleaseInfo
    from coat_core.thinking.model import ThinkingModel
    from coat_core.thinking.release import write_release

    shutil.copytree(bases[key], workspace / "bases" / key, dirs_exist_ok=True)
    backbone = load_backbone(key, str(bases[key]))
    block = ThinkingBlock.install(backbone, ThinkingSettings(tokens=4), 0)
    specs = {"pitch": ExpertSpec("x", "pitch", "representation", 3, 100.0, 16000, "1", "CC0-1.0", True, "tests", ("a", "b", "c"))}
    heads, lora, losses = HeadSettings(width=16, attention_heads=2), LoraSettings(rank=2, alpha=4), LossSettings()
    built = build_heads(specs, {"pitch": (torch.zeros(3), torch.ones(3))}, backbone.hidden_size, heads, 0)
    model = ThinkingModel(backbone, block, built, lora, losses, 0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad and "lora" in name:
                parameter.add_(scale * torch.randn(parameter.shape, generator=generator))
    info = ReleaseInfo(
        key, "coat", 0, BaseInfo(f"bases/{key}", None, "Apache-2.0", dtype=dtype), "f" * 64, block, specs, heads, lora, losses
    )
    target = workspace / "models" / f"{key}-coat-0"
    write_release(target, info, backbone, model)
    return target


@pytest.fixture(scope="module")
def wav(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("audio") / "tone.wav"
    samples = 0.3 * np.sin(2 * np.pi * 440 * np.arange(12_000) / 16_000)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16_000)
        file.writeframes((samples * 32767).astype("<i2").tobytes())
    return path


@dataclass(frozen=True)
class Served:
    workspace: Path
    answer: str
    """What the release answers about the tone, loaded by ourselves."""


@pytest.fixture
def served(
    workspace: Path, add_trial: Callable[..., str], tiny_bases: dict[str, Path], wav: Path, monkeypatch: pytest.MonkeyPatch
) -> Served:
    """A true release, registered as champion; the base in the workspace is gone afterwards."""
    import shutil

    add_trial(TRIAL)
    shutil.rmtree(workspace / "models")
    shutil.rmtree(workspace / "bases")
    release = write_true_release(workspace, tiny_bases, "qwen2_audio", scale=0.1)
    register_trial(workspace, NAME, TRIAL)
    connect(workspace).set_registered_model_alias(NAME, "champion", "1")
    monkeypatch.chdir(workspace)
    return Served(workspace, direct_answer(release, wav))


def direct_answer(release: Path, audio: Path) -> str:
    from coat_core.backbones.base import Query
    from coat_core.corpus.audio import decode
    from coat_core.evaluation.generate import generate_texts
    from coat_core.thinking.release import load_release

    return generate_texts(load_release(release).backbone, [Query("k", decode(audio), QUESTION)], 64)[0]


def table(*rows: tuple[Any, Any]) -> Any:
    import pandas as pd

    return pd.DataFrame(list(rows), columns=pd.Index(["audio", "question"], dtype=object))


def test_the_alias_answers_paths_and_base64_as_the_release_does(served: Served, wav: Path) -> None:
    import shutil

    shutil.rmtree(served.workspace / "bases")
    shutil.rmtree(served.workspace / "models")
    encoded = base64.b64encode(wav.read_bytes()).decode()
    uri = f"models:/{NAME}@champion"
    with default_database(connect(served.workspace).tracking_uri):
        import mlflow

        model = mlflow.pyfunc.load_model(uri)
    answers = model.predict(table((str(wav), QUESTION), (encoded, QUESTION), (f"data:audio/wav;base64,{encoded}", QUESTION)))
    assert answers["answer"].tolist() == [served.answer] * 3
    assert served.answer.strip(), "the random base says something"
    assert serving.ask(uri, wav, QUESTION, served.workspace) == served.answer
    assert model.predict(table())["answer"].tolist() == []


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (("missing.wav", QUESTION), "row 1.*missing.wav"),
        (("UklGR!!!", QUESTION), "row 1: the audio is no base64"),
        ((base64.b64encode(b"RIFF1234 no wave at all").decode(), QUESTION), "row 1"),
        (("", QUESTION), "row 1 has no audio"),
        (("tone.wav", "  "), "row 1 asks nothing"),
    ],
)
def test_a_bad_row_is_named(wav: Path, row: tuple[str, str], message: str) -> None:
    from coat_core.registry.packaging import import_pyfunc

    import_pyfunc()
    from coat_core.registry.served_model import read_table

    with pytest.raises(RegistryError, match=message):
        read_table(table((str(wav), QUESTION), row))


@pytest.mark.parametrize("key", ["qwen2_audio", "qwen2_5_omni", "audio_flamingo_3"])
def test_every_backbone_is_packed_without_a_pickle_and_answers(
    workspace: Path, tiny_bases: dict[str, Path], wav: Path, key: str, tmp_path: Path
) -> None:
    release = write_true_release(workspace, tiny_bases, key)
    folder = tmp_path / "model"
    save_served(folder, release, workspace)
    assert unsafe_files(folder) == ()
    assert serving.predict(serving.load_folder(folder), str(wav), QUESTION).strip()
    assert not [path for path in folder.rglob("*") if path.suffix in (".pkl", ".bin", ".pyc")]


def test_an_unpacked_release_loads_on_the_base_it_came_with(served: Served, tmp_path: Path, wav: Path) -> None:
    import shutil

    shutil.rmtree(served.workspace / "bases")
    release = serving.unpack(f"models:/{NAME}/1", tmp_path / "back", served.workspace)
    assert read_info(release)["base"]["id"] == str(tmp_path / "back" / "base")
    assert direct_answer(release, wav) == served.answer


@pytest.mark.parametrize("merge", [False, True])
def test_a_registered_version_is_exported_with_the_base_it_came_with(served: Served, tmp_path: Path, merge: bool) -> None:
    import shutil

    from coat_core.export.export import export

    shutil.rmtree(served.workspace / "bases")
    done = export(f"models:/{NAME}@champion", tmp_path / "out", merge=merge, dtype="float32" if merge else None, say=str)
    base = json.loads((done.folder / "export.json").read_text())["base"]
    assert base == {"id": "bases/qwen2_audio", "revision": None, "licence": "Apache-2.0"}
    names = {path.name for path in done.folder.iterdir()}
    assert ("base" in names, "model.safetensors" in names) == (not merge, merge)
    scope: dict[str, Any] = {}
    exec(compile(done.usage, "usage", "exec"), scope)
    with pytest.raises(RegistryError, match="coat-unknown"):
        export("models:/coat-unknown/1", tmp_path / "other", merge=merge, say=str)
    assert not (tmp_path / "other").exists()


def test_the_number_format_of_a_served_model_is_named_by_the_environment(
    workspace: Path, tiny_bases: dict[str, Path], wav: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import transformers

    seen: list[Any] = []
    stock = transformers.Qwen2AudioForConditionalGeneration
    load = stock.from_pretrained
    monkeypatch.setattr(stock, "from_pretrained", lambda *args, **kwargs: seen.append(kwargs["dtype"]) or load(*args, **kwargs))
    folder = tmp_path / "model"
    save_served(folder, write_true_release(workspace, tiny_bases, "qwen2_audio", dtype="bfloat16"), workspace)
    # Left alone, it computes in what the release was trained on.
    for asked, dtype in ((None, torch_float("bfloat16")), ("float32", torch_float("float32"))):
        if asked is not None:
            monkeypatch.setenv("COAT_DTYPE", asked)
        seen.clear()
        assert serving.predict(serving.load_folder(folder), str(wav), QUESTION).strip()
        assert seen == [dtype]
    monkeypatch.setenv("COAT_DTYPE", "int4")
    with pytest.raises(RegistryError, match="COAT_DTYPE"):
        serving.load_folder(folder)


def torch_float(name: str) -> Any:
    import torch

    return getattr(torch, name)


@pytest.mark.slow
def test_a_cold_load_answers_once_and_is_remembered(served: Served, wav: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = probe(NAME, "1", served.workspace, audio=wav, question=QUESTION)
    assert (result.answer, result.error) == (served.answer, "")
    tags = connect(served.workspace).get_model_version(NAME, "1").tags
    assert (tags["probe"], tags["probe_answer"]) == ("passed", served.answer)

    def refuse(*arguments: Any) -> None:
        raise AssertionError("a version that has passed is not asked again")

    monkeypatch.setattr("coat_core.registry.cold_load._ask_cold", refuse)
    assert probe(NAME, "1", served.workspace, audio=wav, question=QUESTION).answer == served.answer


@pytest.mark.slow
def test_a_cold_load_that_fails_says_why(served: Served) -> None:
    for weights in (served.workspace / "mlartifacts").rglob("adapter_model.safetensors"):
        weights.write_bytes(b"broken")
    result = probe(NAME, "1", served.workspace)
    assert not result.passed
    assert "adapter_model.safetensors" in result.error
    assert connect(served.workspace).get_model_version(NAME, "1").tags["probe"] == "failed"


@pytest.fixture
def server(served: Served) -> Iterator[str]:
    """`mlflow models serve` on a loopback port, in a session of its own."""
    with socket.socket() as probe_socket:
        probe_socket.bind(("127.0.0.1", 0))
        port = probe_socket.getsockname()[1]
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
        for _ in range(360):
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
def test_mlflow_serves_it(server: str, served: Served, wav: Path) -> None:
    def post(*records: dict[str, str]) -> Any:
        body = json.dumps({"dataframe_records": records}).encode()
        request = urllib.request.Request(server, body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=120) as reply:
            return json.loads(reply.read())

    encoded = base64.b64encode(wav.read_bytes()).decode()
    assert post({"audio": encoded, "question": QUESTION}) == {"predictions": [{"answer": served.answer}]}
    with pytest.raises(urllib.error.HTTPError) as caught:
        post({"audio": "missing.wav", "question": QUESTION})
    assert b"row 0" in caught.value.read()
    caught.value.close()
