"""A step is the same however its accumulation window is divided into batches and ranks."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from coat_core.training.trainer import Trainer
from tests.testing.ranks import run_ranks
from tests.testing.tiny_training import World, assert_same_step, one_step

BATCHES = [[0, 5, 7], [2, 9]]


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
    cases = [{"batches": BATCHES, "masked": masked, "accumulation": 1} for masked in ([], BATCHES[1])]
    first, second = run_ranks("steps", tmp_path, folder=world.folder, cases=cases)
    for case, (gradients, row, _), (other, *_) in zip(cases, first, second, strict=True):
        assert all(torch.equal(gradients[name], other[name]) for name in gradients)
        assert_same_step((gradients, row), one_step(world.folder, world.examples, tmp_path, **{**case, "accumulation": 2}))
