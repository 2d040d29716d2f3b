from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from coat_core.storage import read_jsonl
from coat_core.training.trainer import Trainer
from tests.testing.tiny_training import World

# 10 examples in batches of 2, two batches per step: an epoch has 2.5 steps; ground has 4 of 10 steps.
DROPOUT = {"lora": {"dropout": 0.2}, "heads": {"dropout": 0.2}}


class Killed(BaseException):
    """Simulates SIGKILL: no code catches it."""


def kill_at(monkeypatch: pytest.MonkeyPatch, step: int, micro_step: int) -> Callable[[], None]:
    forward = Trainer._forward_backward
    armed = [True]

    def killing(self: Trainer, micro: object, weights: object, totals: object, at: int, micro_at: int, *, last: bool) -> torch.Tensor:
        if armed[0] and (at, micro_at) == (step, micro_step):
            armed[0] = False
            raise Killed
        return forward(self, micro, weights, totals, at, micro_at, last=last)

    monkeypatch.setattr(Trainer, "_forward_backward", killing)
    return lambda: armed.__setitem__(0, False)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def deterministic(history: Path) -> list[dict[str, object]]:
    return [{k: v for k, v in row.items() if not k.endswith("_s") and k != "seconds"} for row in read_jsonl(history)]


@pytest.fixture(scope="module")
def uninterrupted(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = tmp_path_factory.mktemp("uninterrupted")
    world.train(where, "coat-0", world.settings(**DROPOUT))
    return where


@pytest.mark.parametrize(
    ("every", "step", "micro_step"),
    [
        pytest.param(1, 1, 0, id="epoch 1"),
        pytest.param(3, 2, 1, id="mid-accumulation, before the first checkpoint"),
        pytest.param(1, 6, 1, id="epoch 3, mid-accumulation"),
        pytest.param(1, 3, 0, id="one step before the stage boundary"),
        pytest.param(1, 4, 0, id="at the stage boundary"),
        pytest.param(1, 5, 0, id="one step after the stage boundary"),
        pytest.param(3, 8, 1, id="steps after the checkpoint are repeated"),
    ],
)  # fmt: skip
def test_a_killed_and_resumed_run_ends_bitwise_equal_to_an_uninterrupted_one(
    world: World, uninterrupted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, every: int, step: int, micro_step: int
) -> None:
    settings = world.settings(training={**world.settings().training.model_dump(), "checkpoint_every": every}, **DROPOUT)
    kill_at(monkeypatch, step, micro_step)
    with pytest.raises(Killed):
        world.train(tmp_path, "coat-0", settings)
    assert not (tmp_path / "model").exists()
    torch.manual_seed(1234)
    taken = []
    original = Trainer.step
    monkeypatch.setattr(Trainer, "step", lambda self, at: taken.append(at) or original(self, at))
    world.train(tmp_path, "coat-0", settings)
    assert taken == list(range(step - step % every, 10))
    assert contents(tmp_path / "model") == contents(uninterrupted / "model")
    assert deterministic(tmp_path / "run" / "history.jsonl") == deterministic(uninterrupted / "run" / "history.jsonl")


def test_dropout_has_an_effect(world: World, uninterrupted: Path, tmp_path: Path) -> None:
    world.train(tmp_path, "coat-0", world.settings())
    assert contents(tmp_path / "model")["adapter_model.safetensors"] != contents(uninterrupted / "model")["adapter_model.safetensors"]


def test_a_checkpoint_contains_only_trainable_parameters(uninterrupted: Path) -> None:
    path = sorted((uninterrupted / "scratch" / "checkpoints").glob("*.pt"))[-1]
    names = set(torch.load(path, weights_only=True)["parameters"])
    assert names
    assert all(name == "trainable_tokens" or name.startswith("heads.") or ".lora_" in name for name in names)
