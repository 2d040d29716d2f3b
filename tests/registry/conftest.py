"""Workspaces with their own MLflow database, and releases, scores and records in the file layout of the chain."""

from __future__ import annotations

import json
import shutil
import wave
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coat_core.evaluation.statistics import Bootstrap
from coat_core.registry import database
from coat_core.registry.champions import apply
from coat_core.registry.comparison import compare
from coat_core.registry.releases import register_trial
from coat_core.settings import RegistrySettings
from coat_core.storage import sha256_bytes, write_json, write_jsonl, write_text
from tests.testing.scores import FAMILIES, write_evaluation
from tests.testing.served import TRIAL, Served, direct_answer, write_loadable_release

NAME = "coat-qwen2-audio"
BOOTSTRAP = Bootstrap(200)


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with a new database. It is copied by the tests, because creating it takes seconds."""
    folder = tmp_path_factory.mktemp("template")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        database.tracking_uri(folder)
    return folder


@pytest.fixture
def workspace(empty_database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A workspace without releases, with data and a contract that passed."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    folder = tmp_path / "workspace"
    shutil.copytree(empty_database, folder)
    rows = [
        {
            "split": split,
            "family": family,
            "sha256": f"{split}{family}",
            "duration_s": 3.0,
            "answer": "a",
            "source": "generated",
            "licence": "CC0-1.0",
        }
        for split in ("train", "test")
        for family in FAMILIES
    ]
    write_jsonl(folder / "data/accepted.jsonl", rows)
    write_json(folder / "data/contract/results.json", {"passed": True})
    write_text(folder / "features/pitch/index.json", "{}")
    write_text(folder / "dvc.lock", "schema: '2.0'\n")
    write_text(folder / "params.yaml", "runtime: {device: cpu}\n")
    return folder


@pytest.fixture
def client(workspace: Path) -> Any:
    return database.connect(workspace)


@pytest.fixture
def add_trial(workspace: Path) -> Callable[..., str]:
    """Return a function that writes the outputs of train and score: a release, its records, its scores, and those of the base.

    A family has four examples for each of `of`, so that the intervals have enough items.
    """

    def add(
        trial: str = "qwen2_audio-coat-0",
        *,
        right: Sequence[int] = (6, 6),
        of: int = 10,
        base: Sequence[int] | None = (4, 4),
        content: str = "",
        questions: str = "q",
        steps: int = 3,
    ) -> str:
        backbone, arm, seed = trial.split("-")
        release = workspace / "models" / trial
        key = sha256_bytes(f"{trial} {content}".encode())
        write_text(release / "adapter_model.safetensors", f"weights {content}")
        write_text(release / "chat_template.jinja", "{{ messages }}")
        block = {"tokens": 25, "placement": "before_answer", "read_layer": 3}
        write_json(
            release / "coat.json",
            {
                "backbone": backbone,
                "arm": arm,
                "seed": int(seed),
                "base": {"id": f"bases/{backbone}", "revision": None, "licence": "Apache-2.0"},
                "fingerprint": key,
                "block": block if arm == "coat" else None,
                "read_layer": 3,
                "experts": {"pitch": {}} if arm == "coat" else {},
                "lora": {"rank": 16, "alpha": 32},
                "losses": None,
                "heads": None,
            },
        )
        write_text(workspace / "bases" / backbone / "config.json", "{}")
        write_json(workspace / "runs" / trial / "run.json", {"run_id": sha256_bytes(key.encode())[:32], "experiment": NAME})
        write_text(
            workspace / "runs" / trial / "history.jsonl",
            "".join(json.dumps({"step": step, "stage": "ground", "loss": 1.0 / step}) + "\n" for step in range(1, steps + 1)),
        )
        write_evaluation(workspace / "evaluation" / trial, [4 * n for n in right], 4 * of, questions)
        if base is not None:
            write_evaluation(workspace / "evaluation" / f"{backbone}-base-0", [4 * n for n in base], 4 * of, questions)
        return trial

    return add


@pytest.fixture
def register(workspace: Path, client: Any, add_trial: Callable[..., str]) -> Callable[..., str]:
    """Return a function that registers a release with a number of right answers per family and a passed cold load."""

    def make(*right: int, content: str = "", **changes: Any) -> str:
        made = register_trial(workspace, NAME, add_trial(right=right, content=content or str(right), **changes))
        client.set_model_version_tag(NAME, made.version, "probe", "passed")
        client.set_model_version_tag(NAME, made.version, "probe_answer", "a tone")
        client.set_model_version_tag(NAME, made.version, "probe_finished", "true")
        return made.version

    return make


@pytest.fixture
def judge(workspace: Path) -> Callable[..., str]:
    """Return a function that compares a version with the champion, applies the decision and returns its word."""

    def run(version: str, settings: RegistrySettings | None = None, **named: Any) -> str:
        decision = compare(NAME, version, workspace, bootstrap=BOOTSTRAP, **named).decide(settings or RegistrySettings())
        apply(NAME, version, decision, workspace)
        return decision.word

    return run


@pytest.fixture(scope="session")
def wav(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sine tone of 440 Hz, 0.75 s, 16 kHz, as a WAV file."""
    path = tmp_path_factory.mktemp("audio") / "tone.wav"
    samples = 0.3 * np.sin(2 * np.pi * 440 * np.arange(12_000) / 16_000)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16_000)
        file.writeframes((samples * 32767).astype("<i2").tobytes())
    return path


@pytest.fixture
def serve_release(
    workspace: Path, add_trial: Callable[..., str], wav: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[dict[str, Path], float], Served]:
    """Return a function that registers a loadable release on a base as champion; the workspace is the working directory."""

    def make(bases: dict[str, Path], scale: float) -> Served:
        add_trial(TRIAL)
        shutil.rmtree(workspace / "models")
        shutil.rmtree(workspace / "bases")
        release = write_loadable_release(workspace, bases, "qwen2_audio", scale=scale)
        register_trial(workspace, NAME, TRIAL)
        database.connect(workspace).set_registered_model_alias(NAME, "champion", "1")
        monkeypatch.chdir(workspace)
        return Served(workspace, direct_answer(release, wav))

    return make


@pytest.fixture
def served(serve_release: Callable[[dict[str, Path], float], Served], tiny_bases: dict[str, Path]) -> Served:
    """A release that loads and answers; its base has random weights, so the answer is no text."""
    return serve_release(tiny_bases, 0.1)


@pytest.fixture
def served_pretrained(serve_release: Callable[[dict[str, Path], float], Served]) -> Served:
    """A release on the pretrained base of the repository, whose answer is text."""
    return serve_release({"qwen2_audio": Path(__file__).parents[2] / "bases/qwen2_audio"}, 0.02)
