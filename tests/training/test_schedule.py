from __future__ import annotations

from itertools import pairwise

import pytest

from coat_core.errors import TrainingError
from coat_core.settings import LossSettings, TrainingSettings, find_arm
from coat_core.thinking.losses import StageWeights
from coat_core.training.schedule import Schedule, bottleneck_probability, stage_weights

LOSSES = LossSettings(ground_distill=2.0, ground_answer=0.25, respond_distill=0.3)


def schedule(**changes: object) -> Schedule:
    return Schedule(TrainingSettings(**{"ground_steps": 4, "respond_steps": 6, "warmup_steps": 2, "learning_rate": 0.1, **changes}))


def test_each_stage_counts_its_steps_from_zero() -> None:
    plan = schedule()
    assert [plan.position(step) for step in (0, 3, 4, 9)] == [("ground", 0), ("ground", 3), ("respond", 0), ("respond", 5)]
    assert plan.total_steps == 10
    assert schedule(ground_steps=0).position(0) == ("respond", 0)


def test_rates_increase_linearly_then_decrease_as_a_cosine_across_the_stage_boundary() -> None:
    plan = schedule(rows_learning_rate=0.2, heads_learning_rate=0.4)
    factors = [plan.factor(step) for step in range(10)]
    assert factors[:3] == [0.5, 1.0, 1.0]
    assert factors[6] == pytest.approx(0.5)
    assert all(a > b for a, b in pairwise(factors[2:]))
    assert 0 < factors[-1] < 0.05
    assert plan.rates(0) == {"lora": 0.05, "rows": 0.1, "heads": 0.2}


def test_rates_only_increase_in_a_run_shorter_than_the_warm_up() -> None:
    plan = schedule(warmup_steps=100)
    assert plan.factor(0) == 0.1
    assert plan.factor(9) == 1.0


@pytest.mark.parametrize(
    ("arm", "ground", "respond"),
    [
        ("sft", StageWeights(1.0, 0.0), StageWeights(1.0, 0.0)),
        ("block", StageWeights(1.0, 0.0), StageWeights(1.0, 0.0)),
        ("coat", StageWeights(0.25, 2.0), StageWeights(1.0, 0.3)),
        ("coat_shuffled", StageWeights(0.25, 2.0), StageWeights(1.0, 0.3)),
        ("align", StageWeights(0.25, 2.0), StageWeights(1.0, 0.3)),
        ("described", StageWeights(1.0, 0.0), StageWeights(1.0, 0.0)),
    ],
)
def test_weights_of_each_arm_and_stage(arm: str, ground: StageWeights, respond: StageWeights) -> None:
    assert stage_weights(find_arm(arm), "ground", LOSSES) == ground
    assert stage_weights(find_arm(arm), "respond", LOSSES) == respond


def test_arm_base_has_no_loss_weights() -> None:
    with pytest.raises(TrainingError, match="does not train"):
        stage_weights(find_arm("base"), "ground", LOSSES)


def test_the_distillation_falls_to_zero_over_the_end_of_the_respond_stage() -> None:
    losses = LossSettings(respond_distill=0.3, distill_decay=0.5)
    weights = [stage_weights(find_arm("coat"), "respond", losses, 1 - number / 8).distill for number in range(8)]
    assert weights == pytest.approx([0.3, 0.3, 0.3, 0.3, 0.3, 0.225, 0.15, 0.075])
    assert stage_weights(find_arm("coat"), "ground", losses, 0.1).distill == losses.ground_distill


def test_the_rate_of_the_trainable_tokens_is_relative_to_their_scale() -> None:
    plan = schedule(rows_learning_rate=0.2)
    assert plan.rates(1, rows_scale=0.05) == {**plan.rates(1), "rows": pytest.approx(0.01)}


def test_the_probability_of_a_bottleneck_falls_linearly_to_zero() -> None:
    settings = TrainingSettings(ground_steps=4, respond_steps=6, bottleneck=0.8, bottleneck_share=0.5)
    assert [bottleneck_probability(settings, step) for step in range(7)] == pytest.approx([0.8, 0.64, 0.48, 0.32, 0.16, 0.0, 0.0])
    assert bottleneck_probability(TrainingSettings(), 0) == 0.0
    assert bottleneck_probability(TrainingSettings(bottleneck=0.5, bottleneck_share=0.0), 0) == 0.0
