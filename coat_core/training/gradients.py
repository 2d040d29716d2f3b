"""Gradients of a step: clipping by parameter group, and the share of the distillation in LoRA's gradient."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from coat_core.thinking.losses import StepLosses
from coat_core.thinking.model import Part

MEASURE_EVERY, FIRST_MEASURE = 40, 5
"""Optimizer steps between two measurements of the share, and the first one; a measurement costs two more backward passes of one forward.
At the very first step the share is 0, because the output layer of a new head is 0."""


def clip_gradients(groups: Mapping[Part, Sequence[nn.Parameter]], limit: float, *, by_group: bool) -> dict[str, float]:
    """Limit the norms of the gradients in place and return the norms before, by name.

    A limit on the norm of all parameters together lets the heads, whose gradient is the largest early in training, shrink the steps of
    LoRA and of the trainable tokens. With `by_group`, each group has the limit for itself.

    Args:
        groups: parameters of each group.
        limit: largest norm.
        by_group: whether each group is limited, or all groups together.
    """
    parts = groups.items() if by_group else [("all", [parameter for members in groups.values() for parameter in members])]
    norms = {str(name): float(nn.utils.clip_grad_norm_(list(members), limit)) for name, members in parts}
    total = math.hypot(*norms.values())
    return {"gradient_norm": total, **({f"gradient_norm/{name}": norm for name, norm in norms.items()} if by_group else {})}


class DistillShare:
    """The share of the distillation in the norm of LoRA's gradient, and the factor that holds it at a limit.

    Share = ‖g_distill‖ ÷ (‖g_answer‖ + ‖g_distill‖) over LoRA's parameters. It is measured on the first forward of every
    `MEASURE_EVERY`-th step from `FIRST_MEASURE` on; the factor applies from the next step on, until the next measurement.

    Args:
        parameters: LoRA's parameters.
        limit: largest share; None: the share is measured, and the factor stays 1.
        sum_over_ranks: sums a tensor over all processes, so that all have the same factor; None: there is one process.
    """

    def __init__(
        self, parameters: Sequence[nn.Parameter], limit: float | None, sum_over_ranks: Callable[[Tensor], Tensor] | None = None
    ) -> None:
        self._parameters, self._limit, self._sum_over_ranks = list(parameters), limit, sum_over_ranks
        self.scale = 1.0
        self.share: float | None = None

    def measure(self, losses: StepLosses) -> None:
        """Measure the share on one forward, without changing any gradient, and set the factor."""
        if losses.distill is None or not losses.distill.requires_grad or not losses.answer.requires_grad:
            return
        norms = torch.stack([self._norm(part) for part in (losses.answer, losses.distill)])
        answer, distill = (norms if self._sum_over_ranks is None else self._sum_over_ranks(norms)).tolist()
        if not math.isfinite(answer + distill) or answer + distill == 0.0:
            return
        self.scale = 1.0
        if self._limit is not None and distill > 0.0:
            self.scale = min(1.0, self._limit / (1.0 - self._limit) * answer / distill)
        self.share = self.scale * distill / (answer + self.scale * distill)

    def _norm(self, loss: Tensor) -> Tensor:
        found = torch.autograd.grad(loss, self._parameters, retain_graph=True, allow_unused=True)
        norms = [part.float().norm() for part in found if part is not None]
        return torch.stack(norms).norm() if norms else torch.zeros((), device=loss.device)
