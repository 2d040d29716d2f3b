from __future__ import annotations

import pytest

from coat_core.errors import EvaluationError
from coat_core.evaluation.arms import ArmScores, difference
from coat_core.evaluation.scores import ScoreRow
from coat_core.evaluation.statistics import Bootstrap

BOOTSTRAP = Bootstrap(resamples=500)


def row(i: int, score: float | None, *, family: str = "music", audio: str = "own", chance: float | None = 0.25) -> ScoreRow:
    kind = "wer" if chance is None else "choice"
    return ScoreRow(
        id=f"{family}{i}", family=family, task="t", group=f"g{i}", score=score,
        unscored=None if score is not None else "empty response", kind=kind, audio=audio, chance=chance,
    )  # fmt: skip


def arm(*seeds: list[float | None]) -> ArmScores:
    return ArmScores.of({s: [row(i, v) for i, v in enumerate(values)] for s, values in enumerate(seeds)})


def test_unscored_counts_as_wrong_and_as_its_own_number() -> None:
    entry = arm([1.0, None, 1.0, None, 0.0, 0.0, 1.0, 1.0]).table(BOOTSTRAP)["families"]["music"]
    assert (entry["n"], entry["accuracy"], entry["unscored_share"]) == (8, 0.5, 0.25)
    assert entry["low"] < 0.5 < entry["high"]


def test_chance_of_choices_and_of_open_answers() -> None:
    rows = [row(i, 1.0) for i in range(20)] + [row(i, 0.5, family="transcription", chance=None) for i in range(20)]
    others = [row(i, 0.1 * (i % 2), family="transcription", chance=None, audio="other") for i in range(20)]
    table = ArmScores.of({0: rows + others}).table(BOOTSTRAP)
    music, spoken = table["families"]["music"], table["families"]["transcription"]
    assert (music["chance"], music["over_chance"], music["clear_of_chance"]) == (0.25, 0.75, True)
    assert (spoken["chance"], spoken["over_chance"]) == pytest.approx((0.05, 0.45))
    assert table["mean"]["chance"] == pytest.approx(0.15)
    unknown = ArmScores.of({0: rows}).table(BOOTSTRAP)
    assert unknown["families"]["transcription"]["clear_of_chance"] is None
    assert unknown["mean"]["chance"] is None


def test_an_interval_that_includes_chance_is_not_clear_of_it() -> None:
    entry = arm([1.0, 0.0, 0.0, 0.0] * 9 + [1.0, 1.0, 0.0, 0.0]).table(BOOTSTRAP)["mean"]
    assert entry["over_chance"] == pytest.approx(0.025)
    assert entry["over_chance_low"] < 0.0 < entry["over_chance"]
    assert entry["clear_of_chance"] is False


@pytest.mark.parametrize(
    ("count", "groups", "few"),
    [
        pytest.param(1, 1, True, id="one-item"),
        pytest.param(19, 19, True, id="19-items"),
        pytest.param(40, 4, True, id="four-groups"),
        pytest.param(20, 5, False, id="enough"),
    ],
)
def test_an_interval_over_few_items_or_groups_is_not_evidence(count: int, groups: int, few: bool) -> None:
    rows = [row(i, 1.0).model_copy(update={"group": f"g{i % groups}"}) for i in range(count)]
    right, wrong = ArmScores.of({0: rows}), ArmScores.of({0: [r.model_copy(update={"score": 0.0}) for r in rows]})
    for entry in (right.table(BOOTSTRAP)["mean"], right.table(BOOTSTRAP)["families"]["music"]):
        assert (entry["over_chance_low"], entry["groups"]) == (0.75, groups)
        assert (entry["too_few"], entry["clear_of_chance"]) == (few, not few)
    gap = difference(right, wrong, BOOTSTRAP)["mean"]
    assert (gap["low"], gap["high"], gap["too_few"]) == (1.0, 1.0, few)


def test_the_mean_above_chance_is_that_of_the_table() -> None:
    scores = arm([1.0, 0.0, 0.0, 1.0] * 5)
    over, entry = scores.over_chance(BOOTSTRAP), scores.table(BOOTSTRAP)["mean"]
    assert over is not None
    assert (round(over.value, 6), round(over.low, 6)) == (entry["over_chance"], entry["over_chance_low"])
    unknown = ArmScores.of({0: [row(i, 1.0, family="transcription", chance=None) for i in range(20)]})
    assert unknown.over_chance(BOOTSTRAP) is None


def test_a_difference_is_paired() -> None:
    # One of ten items differs: the paired interval is narrower than the intervals of the two accuracies.
    first, second = arm([1.0] * 6 + [0.0] * 4), arm([1.0] * 5 + [0.0] * 5)
    entry = difference(first, second, BOOTSTRAP)["mean"]
    assert entry["difference"] == pytest.approx(0.1)
    assert (entry["low"], entry["includes_zero"], entry["resampling"]) == (0.0, True, "group")
    assert difference(second, first, BOOTSTRAP)["mean"]["difference"] == pytest.approx(-0.1)
    clear = difference(arm([1.0] * 10), arm([0.0] * 10), BOOTSTRAP)
    assert (clear["mean"]["difference"], clear["mean"]["includes_zero"], clear["seeds"]) == (1.0, False, [0])


def test_only_shared_seeds_are_compared() -> None:
    three, one = arm([0.0] * 6, [1.0] * 6, [1.0] * 6), ArmScores.of({1: [row(i, 0.0) for i in range(6)]})
    result = difference(three, one, BOOTSTRAP)
    assert (result["mean"]["difference"], result["seeds"]) == (1.0, [1])


def test_a_difference_resamples_the_shared_seeds_of_both_arms_together() -> None:
    # Each seed is as good in both arms, so the paired difference is 0.1 in every draw of seeds; the accuracies differ between seeds.
    good, bad = [1.0] * 9 + [0.0], [0.0] * 9 + [0.0]
    first, second = arm([*good[:9], 1.0], [*bad[:9], 1.0]), arm(good, bad)
    entry = difference(first, second, BOOTSTRAP)["mean"]
    assert (entry["difference"], entry["resampling"]) == (pytest.approx(0.1), "group+seed")
    one = difference(arm([*good[:9], 1.0]), arm(good), BOOTSTRAP)["mean"]
    assert (entry["low"], entry["high"], one["resampling"]) == (one["low"], one["high"], "group")
    table = first.table(BOOTSTRAP)["mean"]
    assert (table["accuracy"], table["low"], table["high"], table["resampling"]) == (
        pytest.approx(0.55),
        pytest.approx(0.0),
        1.0,
        "group+seed",
    )


def test_seeds_of_a_trained_arm_are_resampled_against_an_untrained_one() -> None:
    trained, untrained = arm([1.0] * 8, [0.0] * 8), ArmScores.of({7: [row(i, 0.0) for i in range(8)]})
    entry = difference(trained, untrained, BOOTSTRAP)
    assert (entry["seeds"], entry["mean"]["difference"], entry["mean"]["resampling"]) == ([], 0.5, "group+seed")
    assert (entry["mean"]["low"], entry["mean"]["high"]) == (0.0, 1.0)
    others = ArmScores.of({seed: [row(i, 0.0) for i in range(8)] for seed in (7, 8)})
    assert difference(trained, others, BOOTSTRAP)["mean"]["resampling"] == "group"


def test_each_seed_has_its_accuracies() -> None:
    table = arm([1.0, 0.0], [1.0, 1.0]).seed_table()
    assert table == {"0": {"families": {"music": 0.5}, "mean": 0.5}, "1": {"families": {"music": 1.0}, "mean": 1.0}}


def test_arms_over_different_items_are_refused() -> None:
    with pytest.raises(EvaluationError, match="different items"):
        difference(arm([1.0, 0.0]), arm([1.0, 0.0, 0.0]), BOOTSTRAP)
    with pytest.raises(EvaluationError, match="different items"):
        arm([1.0, 0.0], [1.0])
    with pytest.raises(EvaluationError, match="or none"):
        ArmScores.of({})
