"""Losses: one per expert (mean over a clip's valid frames, summed over clips) and the answer loss (summed over tokens)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from coat_core.backbones.base import Backbone
from coat_core.errors import TrainingError
from coat_core.settings import LossSettings

Target = tuple[Tensor, Tensor]
"""Features `[T, d]` and mask `[T]` of one clip."""
BatchTargets = Mapping[str, Sequence[Target | None]]
"""Expert key → one target (or None) for each row of a batch."""


@dataclass(frozen=True)
class StageWeights:
    """Weights of the answer loss and of the summed expert losses in a step; `distill_scale` is a further factor of the latter."""

    answer: float
    distill: float
    distill_scale: float = 1.0


@dataclass(frozen=True)
class Totals:
    """The denominators of the losses: counts of the whole accumulation window over all ranks.

    Attributes:
        answer_tokens: number of ids that the answer loss predicts.
        clips: number of clips with at least one valid frame, by expert key.
    """

    answer_tokens: int
    clips: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class StepLosses:
    """The losses of one forward.

    Attributes:
        loss: scalar to differentiate; the losses of a window's batches add up to the window's loss.
        answer_sum: detached sum of token cross-entropies.
        experts: detached sum, over valid clips, of each expert's loss.
        answer: the part of `loss` from the answers.
        distill: the part of `loss` from the experts, before `StageWeights.distill_scale`; None without experts.
    """

    loss: Tensor
    answer_sum: Tensor
    experts: dict[str, Tensor]
    answer: Tensor
    distill: Tensor | None = None


def answer_loss(backbone: Backbone, states: Tensor, input_ids: Tensor, answer_mask: Tensor) -> Tensor:
    """Return the sum of token cross-entropies over answer ids (float32 scalar).

    The state at position i - 1 predicts id i; logits are computed on those positions only.

    Args:
        backbone: model that computes the logits.
        states: states after the final norm, `[B, L, D]`.
        input_ids: `[B, L]`.
        answer_mask: `[B, L]`, True on the ids to predict.
    """
    predicted = answer_mask[:, 1:]
    # Also without any answer: with a sharded base, all processes must run the output layer.
    logits = backbone.answer_logits(states[:, :-1][predicted])
    return F.cross_entropy(logits.float(), input_ids[:, 1:][predicted], reduction="sum")


def expert_loss(kind: str, prediction: Tensor, target: Tensor, mask: Tensor, losses: LossSettings) -> Tensor:
    """Return the sum over clips of an expert's loss, each the mean over the clip's valid frames (float32 scalar).

    A clip without a valid frame adds an exact zero. The kinds are those of `ExpertSpec.target`:
    `representation`: smooth-L1 (mean over dimensions) + `losses.cosine` · (1 - cosine), on standardised dimensions;
    `regression`: smooth-L1 on standardised dimensions; `posteriors`: binary cross-entropy from logits (mean over dimensions);
    `pitch_bins`: cross-entropy of the soft bins, weighted by voicing, + `losses.voicing` · binary cross-entropy of voicing.

    Args:
        kind: the target kind.
        prediction: the head's output `[B, T, d]`.
        target: `[B, T, d]`; values outside the mask are ignored.
        mask: `[B, T]`, True on valid frames.
        losses: the losses section.

    Raises:
        TrainingError: the kind is unknown.
    """
    prediction = prediction.float()
    target = torch.where(mask[..., None], target.float(), torch.zeros_like(prediction))
    if kind == "pitch_bins":
        return _pitch(prediction, target, mask, losses)
    if kind == "posteriors":
        frames = F.binary_cross_entropy_with_logits(prediction, target, reduction="none").mean(dim=-1)
    elif kind in ("representation", "regression"):
        frames = F.smooth_l1_loss(prediction, target, beta=losses.smooth_l1_beta, reduction="none").mean(dim=-1)
        if kind == "representation":
            frames = frames + losses.cosine * (1.0 - F.cosine_similarity(prediction, target, dim=-1, eps=1e-6))
    else:
        raise TrainingError(
            "unknown target kind", field="target", value=kind, allowed=["representation", "posteriors", "pitch_bins", "regression"]
        )
    return _clip_means(frames, mask.float()).sum()


def _pitch(prediction: Tensor, target: Tensor, mask: Tensor, losses: LossSettings) -> Tensor:
    voicing = target[..., -1]
    entropy = -(target[..., :-1] * F.log_softmax(prediction[..., :-1], dim=-1)).sum(dim=-1)
    voiced = _clip_means(entropy, voicing * mask)
    flag = _clip_means(F.binary_cross_entropy_with_logits(prediction[..., -1], voicing, reduction="none"), mask.float())
    return (voiced + losses.voicing * flag).sum()


def _clip_means(frames: Tensor, weight: Tensor) -> Tensor:
    """Return weighted means over time `[B]` of `[B, T]`; zero with a zero gradient where the weights sum to zero."""
    total = weight.sum(dim=1)
    frames = torch.where(weight > 0, frames, torch.zeros_like(frames))
    return (frames * weight).sum(dim=1) / torch.where(total > 0, total, torch.ones_like(total))
