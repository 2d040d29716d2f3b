"""Skill of a head: its loss relative to that of the best constant prediction, and the loss of a clip's own mean."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor

from coat_core.settings import LossSettings
from coat_core.thinking.constants import best_constants, constant_loss
from coat_core.thinking.heads import ExpertHead
from coat_core.thinking.losses import Target

Value = TypeVar("Value", float, Tensor)


def skill(loss: Value, constant: Value) -> Value:
    """Return 1 − loss / constant: 1 for an exact prediction, 0 for one that is as good as the best constant, negative for a worse one."""
    return 1 - loss / constant


@torch.no_grad()
def clip_mean_loss(head: ExpertHead, durations_s: Sequence[float], targets: Sequence[Target | None], losses: LossSettings) -> Tensor:
    """Return the sum of clip losses, as `ExpertHead.loss` does, of an oracle that knows the mean of each clip's own target.

    It predicts the best constant of each clip: the mean, adapted to the loss (see `best_constants`); for `pitch_bins` the clip's mean
    voiced distribution and its voicing rate. A head with a lower loss distinguishes the frames of a clip.

    Args:
        head: the head of the expert.
        durations_s: duration of each clip.
        targets: features `[T, d]` and mask `[T]` at the native rate, or None.
        losses: the losses section.
    """
    pairs = [(duration, clip) for duration, clip in zip(durations_s, targets, strict=True) if clip is not None]
    if not pairs:
        return head.constant.new_zeros(())
    target, valid = head.targets([duration for duration, _ in pairs], [clip for _, clip in pairs], torch.device("cpu"))
    constants = best_constants(head.spec.target, target, valid, losses, by_clip=True)
    return constant_loss(head.spec.target, constants, target, valid, losses) / head.divisor(losses)
