"""The two stages of a run, learning rates and loss weights: pure functions of the step."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from coat_core.errors import TrainingError
from coat_core.settings import ARMS, Arm, LossSettings, TrainingSettings
from coat_core.thinking.losses import StageWeights
from coat_core.thinking.model import Part

Stage = Literal["ground", "respond"]


@dataclass(frozen=True)
class Schedule:
    """Steps and learning rates of one run.

    The learning rate of each parameter group increases linearly over `warmup_steps`, then decreases as half a cosine to zero
    over the remaining steps of both stages. It does not restart at the stage boundary.
    """

    settings: TrainingSettings

    @property
    def total_steps(self) -> int:
        """Number of optimizer steps of both stages."""
        return self.settings.ground_steps + self.settings.respond_steps

    def position(self, step: int) -> tuple[Stage, int]:
        """Return the stage of an optimizer step (0 = first of the run) and the step's number within it."""
        ground = self.settings.ground_steps
        return ("ground", step) if step < ground else ("respond", step - ground)

    def factor(self, step: int) -> float:
        """Return the factor of the learning rates at an optimizer step (0 = first of the run), in (0, 1]."""
        warmup = min(self.settings.warmup_steps, self.total_steps)
        if step < warmup:
            return (step + 1) / warmup
        return 0.5 * (1.0 + math.cos(math.pi * (step - warmup) / max(self.total_steps - warmup, 1)))

    def rates(self, step: int, rows_scale: float = 1.0) -> dict[Part, float]:
        """Return the learning rate of each parameter group at an optimizer step.

        Args:
            step: the optimizer step, 0 = first of the run.
            rows_scale: factor of the trainable tokens' rate: their initial root mean square, if the rate is relative to it.
        """
        settings, factor = self.settings, self.factor(step)
        return {
            "lora": settings.learning_rate * factor,
            "rows": settings.rows_learning_rate * rows_scale * factor,
            "heads": settings.heads_learning_rate * factor,
        }


def stage_weights(arm: Arm, stage: Stage, losses: LossSettings, remaining: float = 1.0) -> StageWeights:
    """Return the loss weights of an arm at a point of a stage.

    Arms without heads train the answer loss in both stages. The others train mainly the distillation losses in `ground`, and
    answer loss + λ · distillation in `respond`, where λ falls linearly to zero over the last `distill_decay` of the stage.

    Args:
        arm: the arm.
        stage: the stage.
        losses: the losses section.
        remaining: share of the stage that is not yet done, the current step included: 1 at its first step, above 0 at its last.

    Raises:
        TrainingError: the arm does not train.
    """
    if not arm.lora:
        raise TrainingError(
            "this arm does not train", field="arm", value=arm.name, allowed=[name for name, one in ARMS.items() if one.lora]
        )
    if not arm.heads:
        return StageWeights(answer=1.0, distill=0.0)
    if stage == "ground":
        return StageWeights(answer=losses.ground_answer, distill=losses.ground_distill)
    factor = min(1.0, remaining / losses.distill_decay) if losses.distill_decay else 1.0
    return StageWeights(answer=1.0, distill=losses.respond_distill * factor)


def bottleneck_probability(settings: TrainingSettings, step: int) -> float:
    """Return the probability that an optimizer step (0 = first of the run) has a bottleneck; it falls linearly to zero."""
    total = (settings.ground_steps + settings.respond_steps) * settings.bottleneck_share
    return settings.bottleneck * max(0.0, 1.0 - step / total) if total else 0.0
