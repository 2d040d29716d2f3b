"""Workspaces with an MLflow database of their own, and releases, scores and records in the true file layout."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from coat_core.registry import database
from coat_core.storage import sha256_bytes, write_json, write_jsonl, write_text
from tests.testing.scores import FAMILIES, write_evaluation

NAME = "coat-qwen2-audio"


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace whose database was just made (the migrations take seconds: it is copied from then on)."""
    folder = tmp_path_factory.mktemp("template")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        database.tracking_uri(folder)
    return folder


@pytest.fixture
def workspace(empty_database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty workspace with data and a contract that passed."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    folder = tmp_path / "workspace"
    shutil.copytree(empty_database, folder)
    rows = [
        {"split": split, "family": family, "sha256": f"{split}{family}", "duration_s": 3.0, "source": "generated", "licence": "CC0-1.0"}
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
    """Return a function that writes what train and evaluate leave: a release, its records, its scores."""

    def add(
        trial: str = "qwen2_audio-coat-0",
        *,
        right: Sequence[int] = (6, 6),
        of: int = 10,
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
        write_evaluation(workspace / "evaluation" / trial, right, of, questions)
        return trial

    return add
