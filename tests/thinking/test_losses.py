"""Each loss: a value computed by hand, invariance to chunking, and an exact zero with a zero gradient where all is masked."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from coat_core.errors import TrainingError
from coat_core.settings import LossSettings
from coat_core.thinking.losses import answer_loss, expert_loss

LOSSES = LossSettings(smooth_l1_beta=1.0, cosine=0.5, voicing=2.0)
KINDS = ("representation", "regression", "posteriors", "pitch_bins")
LN2 = math.log(2)

# prediction [T, d], target [T, d], mask [T], loss
BY_HAND: dict[str, tuple[list[list[float]], list[list[float]], list[bool], float]] = {
    # Frame 0: smooth-L1 of (0.5, 2) is (0.125, 1.5), mean 0.8125. Frame 1: differences (3, 0) give (2.5, 0), mean 1.25.
    "regression": ([[0.5, 2.0], [3.0, 0.0], [9.0, 9.0]], [[0.0, 0.0], [0.0, 0.0], [0.0, 0.0]], [True, True, False], (0.8125 + 1.25) / 2),
    # One frame, prediction (3, 4), target (4, 3): smooth-L1 0.5, cosine 24 / 25; 0.5 + 0.5 · 0.04 = 0.52. The other is equal: 0.
    "representation": ([[3.0, 4.0], [1.0, 2.0]], [[4.0, 3.0], [1.0, 2.0]], [True, True], 0.52 / 2),
    # Logit 0 costs ln 2 whatever the target; logit ln 3 (p = 3/4) costs ln(4/3) for 1 and ln 4 for 0.
    "posteriors": (
        [[0.0, math.log(3)], [math.log(3), 0.0]],
        [[0.3, 1.0], [0.0, 0.9]],
        [True, True],
        (LN2 + math.log(4 / 3) + LN2 + math.log(4)) / 4,
    ),
    # Bins: frame 0 voiced 1, uniform logits: ln 2; frame 1 voiced 0.5, softmax (3/4, 1/4), soft target (½, ½): ½(ln 4/3 + ln 4).
    # Voicing: logit 0 twice: ln 2 each; weighted 2.
    "pitch_bins": (
        [[0.0, 0.0, 0.0], [math.log(3), 0.0, 0.0], [5.0, 5.0, 5.0]],
        [[1.0, 0.0, 1.0], [0.5, 0.5, 0.5], [0.0, 1.0, 1.0]],
        [True, True, False],
        (LN2 + 0.5 * 0.5 * (math.log(4 / 3) + math.log(4))) / 1.5 + 2.0 * LN2,
    ),
}


def _batch(kind: str, rows: int, frames: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    prediction = torch.randn((rows, frames, 4), generator=generator)
    target = torch.rand((rows, frames, 4), generator=generator)
    if kind == "pitch_bins":
        target[..., :3] /= target[..., :3].sum(-1, keepdim=True)
    mask = torch.rand((rows, frames), generator=generator) < 0.6
    mask[:, 0] = True
    return prediction, target, mask


@pytest.mark.parametrize("kind", KINDS)
def test_by_hand(kind: str) -> None:
    prediction, target, mask, expected = BY_HAND[kind]
    loss = expert_loss(kind, torch.tensor([prediction]), torch.tensor([target]), torch.tensor([mask]), LOSSES)
    assert loss.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_chunks_sum_to_the_whole_and_padding_adds_nothing(kind: str) -> None:
    prediction, target, mask = _batch(kind, 5, 7)
    whole = expert_loss(kind, prediction, target, mask, LOSSES)
    parts = sum(expert_loss(kind, prediction[i:j], target[i:j], mask[i:j], LOSSES) for i, j in ((0, 1), (1, 4), (4, 5)))
    torch.testing.assert_close(whole, parts)
    padded = [
        torch.cat([part, torch.full_like(part[:, :2], filler)], dim=1)
        for part, filler in ((prediction, 7.0), (target, float("nan")), (mask, 0))
    ]
    torch.testing.assert_close(expert_loss(kind, padded[0], padded[1], padded[2], LOSSES), whole)


@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_is_exactly_zero_where_all_is_masked(kind: str) -> None:
    prediction, target, mask = _batch(kind, 3, 4)
    prediction.requires_grad_()
    loss = expert_loss(kind, prediction, torch.full_like(target, float("nan")), torch.zeros_like(mask), LOSSES)
    loss.backward()
    assert loss.item() == 0.0
    assert torch.equal(prediction.grad, torch.zeros_like(prediction))  # type: ignore[arg-type]


def test_an_unvoiced_clip_trains_only_voicing() -> None:
    prediction, target, mask = _batch("pitch_bins", 1, 4)
    prediction.requires_grad_()
    target[..., -1] = 0.0
    expert_loss("pitch_bins", prediction, target, mask, LOSSES).backward()
    assert prediction.grad is not None
    assert torch.equal(prediction.grad[..., :-1], torch.zeros(1, 4, 3))
    assert bool((prediction.grad[..., -1][mask] != 0).all())


def test_an_unknown_kind_is_rejected() -> None:
    with pytest.raises(TrainingError, match="unknown target kind"):
        expert_loss("captions", *_batch("regression", 1, 2), LOSSES)


def _answer(states: torch.Tensor, ids: list[list[int]], mask: list[list[int]]) -> torch.Tensor:
    backbone: Any = SimpleNamespace(answer_logits=lambda rows: rows)
    return answer_loss(backbone, states, torch.tensor(ids), torch.tensor(mask).bool())


def test_answer_loss_by_hand() -> None:
    """The state before an answer id predicts it: softmax (3/4, 1/4) at 0 for id 1, uniform at 1 for id 0; position 2 predicts nothing."""
    states = torch.tensor([[[math.log(3), 0.0], [0.0, 0.0], [50.0, 0.0]]])
    assert float(_answer(states, [[0, 1, 0]], [[0, 1, 1]])) == pytest.approx(math.log(4) + LN2)


def test_answer_loss_is_a_sum_over_rows_and_float32() -> None:
    states = torch.randn((3, 5, 6), generator=torch.Generator().manual_seed(0))
    ids, mask = [[1, 2, 3, 4, 5]] * 3, [[0, 0, 0, 1, 1], [0, 1, 1, 1, 0], [0, 0, 0, 0, 0]]
    whole = _answer(states, ids, mask)
    torch.testing.assert_close(whole, sum(_answer(states[i : i + 1], ids[i : i + 1], mask[i : i + 1]) for i in range(3)))
    assert _answer(states.to(torch.bfloat16), ids, mask).dtype == torch.float32


def test_answer_loss_without_an_answer_is_exactly_zero() -> None:
    states = torch.randn(1, 3, 2, requires_grad=True)
    loss = _answer(states, [[0, 1, 0]], [[0, 0, 0]])
    loss.backward()
    assert loss.item() == 0.0
    assert torch.equal(states.grad, torch.zeros(1, 3, 2))  # type: ignore[arg-type]
