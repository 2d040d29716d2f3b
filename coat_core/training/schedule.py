"""Two stages in one run, the learning rates, and what each arm's losses weigh: all pure functions of the step."""

from __future__ import annotations

import math
from dataclasses import dataclass

from coat_core.errors import TrainingError
from coat_core.settings import Arm, LossSettings, TrainingSettings
from coat_core.thinking.losses import StageWeights
from coat_core.thinking.trainable import Part, Stage

DISTILLED: tuple[Arm, ...] = ("coat", "coat_shuffled")


@dataclass(frozen=True)
class Schedule:
    """Steps and learning rates of one run.

    The rate of each parameter group rises linearly over `warmup_steps`, then falls as half a cosine towards zero over
    what is left of both stages; it does not start again at the stage boundary.
    """

    settings: TrainingSettings

    @property
    def total_steps(self) -> int:
        """Optimizer steps of both stages."""
        return self.settings.ground_steps + self.settings.respond_steps

    def position(self, step: int) -> tuple[Stage, int]:
        """Return the stage of an optimizer step (0 = first of the run) and the step's number within it."""
        ground = self.settings.ground_steps
        return ("ground", step) if step < ground else ("respond", step - ground)

    def factor(self, step: int) -> float:
        """Return the share of the full learning rate at an optimizer step (0 = first of the run), in (0, 1]."""
        warmup = min(self.settings.warmup_steps, self.total_steps)
        if step < warmup:
            return (step + 1) / warmup
        return 0.5 * (1.0 + math.cos(math.pi * (step - warmup) / max(self.total_steps - warmup, 1)))

    def rates(self, step: int) -> dict[Part, float]:
        """Return the learning rate of each parameter group at an optimizer step."""
        own, factor = self.settings, self.factor(step)
        return {"lora": own.learning_rate * factor, "rows": own.rows_learning_rate * factor, "heads": own.heads_learning_rate * factor}


def stage_weights(arm: Arm, stage: Stage, losses: LossSettings) -> StageWeights:
    """Return what the losses weigh.

    Arms without heads train the answer loss in both stages; for the others distillation leads in `ground`, and `respond`
    is answer loss + λ · distillation.

    Raises:
        TrainingError: the arm does not train.
    """
    if arm == "base":
        raise TrainingError("arm base does not train", field="arm", value=arm, allowed=("sft", "block", *DISTILLED))
    if arm not in DISTILLED:
        return StageWeights(answer=1.0, distill=0.0)
    if stage == "ground":
        return StageWeights(answer=losses.ground_answer, distill=losses.ground_distill)
    return StageWeights(answer=1.0, distill=losses.respond_distill)
