"""A step is the same however its accumulation window is divided into batches and ranks."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from coat_core.training.trainer import Trainer
from tests.testing.tiny_training import World, one_step

BATCHES = [[0, 5, 7], [2, 9]]
Step = tuple[dict[str, torch.Tensor], dict[str, Any]]


def assert_same_step(a: Step, b: Step) -> None:
    assert a[0].keys() == b[0].keys()
    for name in a[0]:
        torch.testing.assert_close(a[0][name], b[0][name], rtol=1e-3, atol=2e-6, msg=lambda text, name=name: f"{name}: {text}")
    for key in ("loss", "loss/answer", "loss/pitch", "loss/reconstruction", "gradient_norm"):
        assert a[1][key] == pytest.approx(b[1][key], rel=1e-4)


def test_accumulated_batches_equal_one_batch_of_all(world: World, tmp_path: Path) -> None:
    split = one_step(world.folder, world.examples, tmp_path, BATCHES, accumulation=2)
    assert_same_step(split, one_step(world.folder, world.examples, tmp_path, [BATCHES[0] + BATCHES[1]], accumulation=1))
    assert all(bool(gradient.abs().sum() > 0) for gradient in split[0].values())


def test_a_batch_without_a_valid_frame_has_no_effect(world: World, tmp_path: Path) -> None:
    masked = one_step(world.folder, world.examples, tmp_path, BATCHES, BATCHES[1], accumulation=2)
    assert_same_step(masked, one_step(world.folder, world.examples, tmp_path, [BATCHES[0] + BATCHES[1]], BATCHES[1], accumulation=1))
    whole = one_step(world.folder, world.examples, tmp_path, BATCHES, accumulation=2)
    assert masked[1]["loss/pitch"] != pytest.approx(whole[1]["loss/pitch"], rel=1e-3)
    assert masked[1]["loss/answer"] == pytest.approx(whole[1]["loss/answer"], rel=1e-6)
    nothing = one_step(world.folder, world.examples, tmp_path, BATCHES, BATCHES[0] + BATCHES[1], accumulation=2)
    assert nothing[1]["loss/pitch"] == 0.0
    assert nothing[1]["loss"] == pytest.approx(0.5 * nothing[1]["loss/answer"])


def test_a_batch_cut_by_seconds_gives_the_same_step(world: World, tmp_path: Path) -> None:
    whole = one_step(world.folder, world.examples, tmp_path, [BATCHES[0] + BATCHES[1]], accumulation=1)
    seen: list[tuple[int, ...]] = []
    read = Trainer._micro_batch
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "_micro_batch", lambda self, indices: seen.append(indices) or read(self, indices))
        cut = one_step(world.folder, world.examples, tmp_path, [BATCHES[0] + BATCHES[1]], accumulation=1, batch_seconds=2.3)
    assert seen == [(0, 5), (7, 2), (9,)]
    assert_same_step(cut, whole)


def test_recomputing_activations_changes_no_gradient(world: World, tmp_path: Path) -> None:
    kept = one_step(world.folder, world.examples, tmp_path, BATCHES, accumulation=2)
    again = one_step(world.folder, world.examples, tmp_path, BATCHES, accumulation=2, gradient_checkpointing=True)
    assert all(torch.equal(kept[0][name], again[0][name]) for name in kept[0])


@pytest.mark.slow
def test_two_processes_equal_one(world: World, tmp_path: Path) -> None:
    """A gloo DDP step, without and with valid frames in the clips of the second rank."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    script, root = Path(__file__).parents[1] / "testing" / "tiny_training.py", Path(__file__).parents[2]
    shared = {
        **os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2",
        "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true", "PYTHONPATH": str(root),
    }  # fmt: skip
    processes = [
        subprocess.Popen(
            [sys.executable, str(script), str(world.folder), str(tmp_path / f"{rank}.pt"), *map(str, BATCHES[1])], cwd=root,
            stderr=subprocess.PIPE, text=True, env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(2)
    ]  # fmt: skip
    try:
        for process in processes:
            _, errors = process.communicate(timeout=1800)
            assert process.returncode == 0, errors[-3000:]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    ranks = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    for case, masked in enumerate(([], BATCHES[1])):
        (gradients, row), (other, _) = ranks[0][case], ranks[1][case]
        assert all(torch.equal(gradients[name], other[name]) for name in gradients)
        assert_same_step((gradients, row), one_step(world.folder, world.examples, tmp_path, BATCHES, masked, accumulation=2))
