"""Clipping by parameter group, and the share of the distillation in LoRA's gradient, with values worked out by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from coat_core.storage import read_jsonl
from coat_core.thinking.losses import StepLosses
from coat_core.training.gradients import FIRST_MEASURE, DistillShare, clip_gradients
from tests.testing.tiny_training import World


def _parameters() -> tuple[nn.Parameter, nn.Parameter]:
    lora, head = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(1))
    lora.grad, head.grad = torch.tensor([0.3, 0.4]), torch.tensor([12.0])
    return lora, head


def test_a_large_gradient_of_one_group_does_not_shrink_that_of_another() -> None:
    lora, head = _parameters()
    norms = clip_gradients({"lora": [lora], "heads": [head]}, 1.0, by_group=True)
    assert norms["gradient_norm/lora"] == pytest.approx(0.5)
    assert norms["gradient_norm/heads"] == pytest.approx(12.0)
    assert norms["gradient_norm"] == pytest.approx((0.5**2 + 12.0**2) ** 0.5)
    torch.testing.assert_close(lora.grad, torch.tensor([0.3, 0.4]))
    torch.testing.assert_close(head.grad, torch.tensor([1.0]), atol=1e-4, rtol=0)


def test_one_limit_for_all_groups() -> None:
    lora, head = _parameters()
    norms = clip_gradients({"lora": [lora], "heads": [head]}, 1.0, by_group=False)
    total = (0.5**2 + 12.0**2) ** 0.5
    assert norms == {"gradient_norm": pytest.approx(total)}
    torch.testing.assert_close(lora.grad, torch.tensor([0.3, 0.4]) / total, atol=1e-5, rtol=0)


def _losses(parameter: nn.Parameter, other: nn.Parameter) -> StepLosses:
    """Return losses whose gradients with respect to `parameter` have the norms 3 (answer) and 4 (distillation)."""
    answer, distill = 3.0 * parameter[0] + 7.0 * other[0], 4.0 * parameter[1] + 9.0 * other[0]
    return StepLosses(answer + distill, answer.detach(), {}, answer, distill)


def test_the_share_is_that_of_the_norms_and_changes_no_gradient() -> None:
    lora, head = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(1))
    share = DistillShare([lora], None)
    losses = _losses(lora, head)
    share.measure(losses)
    assert share.share == pytest.approx(4 / 7)
    assert share.scale == 1.0
    assert lora.grad is None
    losses.loss.backward()
    torch.testing.assert_close(lora.grad, torch.tensor([3.0, 4.0]))


@pytest.mark.parametrize(("limit", "scale"), [(0.25, 0.25), (0.5, 0.75), (0.9, 1.0)])
def test_a_limit_scales_the_distillation_down_to_the_share_and_never_up(limit: float, scale: float) -> None:
    """With norms 3 and 4, a share of 1/4 needs 4 s = 3 · (1/4) ÷ (3/4) = 1, so s = 1/4."""
    lora, head = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(1))
    share = DistillShare([lora], limit)
    share.measure(_losses(lora, head))
    assert share.scale == pytest.approx(scale)
    assert share.share == pytest.approx(min(limit, 4 / 7))


def test_nothing_is_measured_without_distillation() -> None:
    lora = nn.Parameter(torch.ones(1))
    share = DistillShare([lora], 0.3)
    share.measure(StepLosses(lora.sum(), lora.detach().sum(), {}, lora.sum(), None))
    assert (share.share, share.scale) == (None, 1.0)


def test_all_processes_have_the_factor_of_their_summed_norms() -> None:
    """The other process has the norms 5 and 0: 8 and 4 in sum, so a share of 1/5 needs 4 s = 8 · (1/5) ÷ (4/5) = 2."""
    lora, head = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(1))
    share = DistillShare([lora], 0.2, lambda norms: norms + torch.tensor([5.0, 0.0]))
    share.measure(_losses(lora, head))
    assert share.scale == pytest.approx(0.5)


def test_the_share_is_measured_with_recomputed_activations_too(world: World, tmp_path: Path) -> None:
    """Gradient checkpointing recomputes the activations at each of the three backward passes and changes nothing."""
    releases = [
        world.train(tmp_path / str(saving), "coat-0", world.settings(training={"gradient_checkpointing": saving}))
        for saving in (True, False)
    ]
    first, second = (read_jsonl(tmp_path / str(saving) / "run/history.jsonl") for saving in (True, False))
    assert 0 < first[FIRST_MEASURE]["distill_share"] < 1
    assert first[FIRST_MEASURE]["distill_share"] == second[FIRST_MEASURE]["distill_share"]
    assert sum("distill_share" in row for row in first) == 1
    assert len({(release / "adapter_model.safetensors").read_bytes() for release in releases}) == 1
