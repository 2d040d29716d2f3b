from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch

from coat_core.errors import TrainingError
from coat_core.training import checkpoint as module
from coat_core.training.checkpoint import Checkpoint, CheckpointFolder, random_state, restore_random_state


def state(step: int, fingerprint: str = "key") -> Checkpoint:
    parameter = torch.nn.Parameter(torch.full((3,), float(step)))
    optimizer = torch.optim.AdamW([{"params": [parameter], "name": "lora"}])
    parameter.grad = torch.ones(3)
    optimizer.step()
    return Checkpoint(fingerprint, 1, step, {"trainable_tokens": parameter.detach()}, optimizer.state_dict(), {}, random_state())


def test_round_trip_and_only_the_newest_two_are_kept(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path, "key")
    assert folder.load_latest() is None
    for step in (3, 6, 9):
        folder.save(state(step))
    loaded = folder.load_latest()
    assert loaded is not None
    assert loaded.step == 9
    assert torch.equal(loaded.parameters["trainable_tokens"], state(9).parameters["trainable_tokens"])
    assert loaded.optimizer["param_groups"][0]["name"] == "lora"
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "step-00000006.json",
        "step-00000006.pt",
        "step-00000009.json",
        "step-00000009.pt",
    ]


def test_a_checkpoint_without_its_marker_is_ignored(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path, "key")
    folder.save(state(3))
    folder.save(state(6))
    (tmp_path / "step-00000006.json").unlink()
    assert folder.load_latest().step == 3


def test_after_a_kill_before_the_marker_the_previous_checkpoint_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = CheckpointFolder(tmp_path, "key")
    folder.save(state(3))

    def killed(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "write_json", killed)
    with pytest.raises(KeyboardInterrupt):
        folder.save(state(6))
    assert (tmp_path / "step-00000006.pt").is_file()
    assert folder.load_latest().step == 3


def test_a_damaged_checkpoint_is_skipped(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path, "key")
    folder.save(state(3))
    folder.save(state(6))
    path = tmp_path / "step-00000006.pt"
    path.write_bytes(path.read_bytes()[:-10])
    assert folder.load_latest().step == 3


def test_a_checkpoint_of_another_run_is_rejected(tmp_path: Path) -> None:
    CheckpointFolder(tmp_path, "other").save(state(3, "other"))
    with pytest.raises(TrainingError, match="another run"):
        CheckpointFolder(tmp_path, "key").load_latest()


def test_restored_random_generators_repeat_their_values() -> None:
    saved = random_state()
    first = (random.random(), np.random.rand(), torch.rand(2).tolist())
    assert (random.random(), np.random.rand(), torch.rand(2).tolist()) != first
    restore_random_state(saved)
    assert (random.random(), np.random.rand(), torch.rand(2).tolist()) == first
