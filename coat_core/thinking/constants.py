"""Constant predictors: the loss of the best constant prediction is the unit of an expert's loss, and a head's initial output."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import cast

import torch
from torch import Tensor, nn

from coat_core.errors import TrainingError
from coat_core.settings import LossSettings
from coat_core.thinking.heads import ExpertHead
from coat_core.thinking.losses import expert_loss

Clip = tuple[Tensor, Tensor, float]
"""Features `[T, d]` and mask `[T]` at the native rate, and duration in seconds."""
FRAMES_PER_CLIP = 64
"""Most frames of a clip in the fit, at even distances: a limit of memory for long clips and experts of many dimensions."""
_ITERATIONS = 20
_LEAST_LOSS = 1e-6


def fit_constants(heads: nn.ModuleDict, clips: Mapping[str, Iterable[Clip]], losses: LossSettings) -> None:
    """Set the buffer `constant` and the output bias of each head from training clips.

    The bias becomes the best constant prediction (see `best_constants`), and the output layer's weights become zero: an untrained head
    has a skill of 0. The result depends on the clips and their order, not on a random generator.

    Args:
        heads: expert key → `ExpertHead`, not trained yet.
        clips: expert key → training clips.
        losses: the losses section.

    Raises:
        TrainingError: clips and heads name different experts, or an expert has no valid frame.
    """
    if {*clips} != {*heads}:
        raise TrainingError("clips and heads name different experts", field="clips", value=sorted(clips), allowed=sorted(heads))
    for key in sorted(heads):
        head = cast(ExpertHead, heads[key])
        targets = [target for target in (_pooled(head, *clip) for clip in clips[key]) if len(target)]
        if not targets:
            raise TrainingError(
                "an expert has no valid frame in the training clips",
                field=f"features/{key}",
                value="0 frames",
                next_step=f"run stage features@{key}",
            )
        target = nn.utils.rnn.pad_sequence(targets, batch_first=True)
        mask = nn.utils.rnn.pad_sequence([torch.ones(len(clip), dtype=torch.bool) for clip in targets], batch_first=True)
        prediction = best_constants(head.spec.target, target, mask, losses)
        with torch.no_grad():
            mean = constant_loss(head.spec.target, prediction, target, mask, losses) / len(targets)
            # Where the targets never vary, there is no unit, and the loss is not scaled.
            head.constant.copy_(mean if float(mean) > _LEAST_LOSS else torch.zeros(()))
            head.leave.bias.copy_(prediction[0])
            head.leave.weight.zero_()


def best_constants(kind: str, target: Tensor, mask: Tensor, losses: LossSettings, *, by_clip: bool = False) -> Tensor:
    """Return the constant prediction with the least loss, `[1, d]` for all clips together or `[B, d]` for each clip.

    It has the form of a head's output. For `posteriors` and `pitch_bins` the logits of the mean are the minimum. For `representation`
    and `regression`, where the mean is not (in standardised MFCCs its loss is above that of zero), L-BFGS starts from the mean; the sum
    of the losses is separable, so all clips are solved at once.

    Args:
        kind: the target kind.
        target: pooled and standardised targets `[B, T, d]`.
        mask: `[B, T]`, True on valid frames; each clip has one.
        losses: the losses section.
        by_clip: a constant for each clip instead of one for all.
    """
    target = torch.where(mask[..., None], target.float(), torch.zeros(()))
    if kind == "posteriors":
        return _logit(_means(target, mask.float(), by_clip))
    if kind == "pitch_bins":
        voicing = target[..., -1]
        bins = _means(target[..., :-1], voicing, by_clip)
        # A bin that no clip contains keeps a small probability.
        bins = (0.999 * bins + 0.001 / bins.shape[-1]).log()
        return torch.cat([bins, _logit(_means(voicing[..., None], mask.float(), by_clip))], dim=-1)
    constants = _means(target, mask.float(), by_clip).requires_grad_()
    optimizer = torch.optim.LBFGS([constants], max_iter=_ITERATIONS, line_search_fn="strong_wolfe")

    def closure() -> float:
        optimizer.zero_grad()
        with torch.enable_grad():
            loss = constant_loss(kind, constants, target, mask, losses) / (1 if by_clip else len(target))
            loss.backward()  # type: ignore[no-untyped-call]
        return float(loss.detach())

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    return constants.detach()


def constant_loss(kind: str, constants: Tensor, target: Tensor, mask: Tensor, losses: LossSettings) -> Tensor:
    """Return the sum of clip losses (float32 scalar) of constants `[1, d]` or `[B, d]` for targets `[B, T, d]` with mask `[B, T]`."""
    return expert_loss(kind, constants[:, None].expand(*target.shape), target, mask, losses)


def _means(values: Tensor, weights: Tensor, by_clip: bool) -> Tensor:
    """Return weighted means over time `[B, d]`, or their mean `[1, d]` over the clips that have a weight."""
    total = weights.sum(dim=1, keepdim=True)
    means = (values * weights[..., None]).sum(dim=1) / torch.where(total > 0, total, torch.ones(()))
    return means if by_clip else means.sum(dim=0, keepdim=True) / (total > 0).sum().clamp_min(1)


def _pooled(head: ExpertHead, features: Tensor, mask: Tensor, duration_s: float) -> Tensor:
    """Return the pooled and standardised target of the valid frames `[T, d]` on the CPU, at most `FRAMES_PER_CLIP` of them."""
    target, valid = head.targets([duration_s], [(features, mask)], head.constant.device)
    frames = target[0][valid[0]].cpu()
    return frames[:: -(-len(frames) // FRAMES_PER_CLIP) or 1]


def _logit(probability: Tensor) -> Tensor:
    return probability.clamp(1e-4, 1 - 1e-4).logit()
