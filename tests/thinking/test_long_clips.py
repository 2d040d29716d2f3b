"""A head computes at most `heads.max_frames` frames for a clip of ten minutes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from coat_core.experts.base import ExpertSpec
from coat_core.settings import HeadSettings, LossSettings
from coat_core.thinking.heads import ExpertHead

SECONDS, RATE_HZ, DIM, WIDTH = 600.0, 100.0, 6, 16


def make_head(**settings: Any) -> ExpertHead:
    spec = ExpertSpec(
        "made_up",
        "reconstruction",
        "representation",
        DIM,
        RATE_HZ,
        16000,
        "1",
        "CC0-1.0",
        True,
        "tests",
        tuple(f"d{i}" for i in range(DIM)),
    )
    torch.manual_seed(0)
    return ExpertHead(spec, (torch.zeros(DIM), torch.ones(DIM)), 32, HeadSettings(width=WIDTH, attention_heads=2, **settings))


def features(event_s: float = 599.99) -> tuple[Tensor, Tensor]:
    frames = torch.zeros(int(SECONDS * RATE_HZ), DIM)
    frames[int(event_s * RATE_HZ)] = 1.0
    return frames, torch.ones(len(frames), dtype=torch.bool)


@pytest.mark.parametrize("limit", [1500, 100])
def test_the_target_of_ten_minutes_has_max_frames_and_covers_the_clip(limit: int) -> None:
    head = make_head(max_frames=limit)
    for event_s in (0.0, 300.0, 599.99):
        pooled, valid = head.pool(*features(event_s), SECONDS)
        target = head.standardise(pooled, valid)
        assert target.shape == (limit, DIM)
        assert valid.all()
        assert target.abs().sum(1).nonzero().flatten().tolist() == [int(event_s / SECONDS * limit)]


def test_no_tensor_of_a_head_is_larger_than_its_frames() -> None:
    head, largest = make_head(), 0

    def record(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        nonlocal largest
        tensors = [item for item in (*inputs, *(output if isinstance(output, tuple) else (output,))) if isinstance(item, Tensor)]
        largest = max([largest, *(tensor.numel() for tensor in tensors)])

    for module in head.modules():
        module.register_forward_hook(record)
    states = torch.randn(2, 25, 32, requires_grad=True)
    loss = head.loss(states, [SECONDS, 2.0], [features(), (torch.randn(200, DIM), torch.ones(200, dtype=torch.bool))], LossSettings())
    loss.backward()
    assert 0 < largest <= 2 * 1500 * 4 * WIDTH
    assert states.grad is not None
    assert states.grad[0].abs().max() > 0
    prediction, mask = head(states, [SECONDS, 2.0])
    assert prediction.shape == (2, 1500, DIM)
    assert mask.sum(1).tolist() == [1500, 50]
