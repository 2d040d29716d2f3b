from __future__ import annotations

import numpy as np
import pytest

from coat_core.errors import EvaluationError
from coat_core.evaluation.statistics import MIN_GROUPS, MIN_ITEMS, Bootstrap, Item, mean_over_seeds, resampling_units, too_few


def items(groups: list[str], family: str = "music") -> list[Item]:
    return [Item(f"{family}{i}", family, group) for i, group in enumerate(groups)]


def test_equal_values_have_an_interval_of_zero_width() -> None:
    result = Bootstrap(resamples=200).macro(items(list("abcdef")), np.full(6, 0.25))
    assert (result.value, result.low, result.high, result.n, result.units, result.resampling) == (0.25, 0.25, 0.25, 6, 6, "group")


def test_whole_groups_are_resampled() -> None:
    # Ten copies of each of six group means carry the same evidence as the six means.
    rng = np.random.default_rng(0)
    means = rng.random(6)
    once = Bootstrap().macro(items(list("abcdef")), means)
    copied = Bootstrap().macro(items([g for g in "abcdef" for _ in range(10)]), np.repeat(means, 10))
    assert (copied.low, copied.high) == pytest.approx((once.low, once.high))
    assert copied.units == once.units == 6
    by_item = Bootstrap().macro(items([f"g{i}" for i in range(60)]), np.repeat(means, 10))
    assert by_item.high - by_item.low < 0.6 * (copied.high - copied.low)


def test_a_family_with_fewer_than_five_groups_is_resampled_by_item() -> None:
    result = Bootstrap().macro(items([g for g in "abcd" for _ in range(10)]), np.repeat([0.0, 1.0, 0.0, 1.0], 10))
    assert (result.resampling, result.units) == ("item", 40)


def test_few_items_or_groups_are_too_few() -> None:
    assert (MIN_ITEMS, MIN_GROUPS) == (20, 5)
    assert [too_few(*counts) for counts in ((19, 19), (20, 4), (20, 5), (19, None), (20, None))] == [True, True, False, True, False]
    assert Bootstrap(200).macro(items(["a"]), np.ones(1)).too_few
    assert Bootstrap(200).macro(items(list("abcd") * 10), np.ones(40)).groups == 4
    assert not Bootstrap(200).macro(items(list("abcde") * 4), np.ones(20)).too_few


def test_a_composite_group_is_a_separate_group() -> None:
    names, kinds = resampling_units(items(["a", "b", "a+b", "c", "d"]))
    assert (len(set(names)), kinds) == (5, {"group"})


def test_families_of_both_kinds_are_mixed() -> None:
    both = items(list("abcdef")) + items(["a"] * 3, "emotion")
    result = Bootstrap().macro(both, np.ones(9))
    assert (result.resampling, result.units) == ("mixed", 9)
    assert {f: r.resampling for f, r in Bootstrap().by_family(both, np.ones(9)).items()} == {"music": "group", "emotion": "item"}


def test_the_macro_mean_weighs_families_alike() -> None:
    both = items([f"g{i}" for i in range(30)]) + items([f"h{i}" for i in range(10)], "emotion")
    assert Bootstrap().macro(both, np.r_[np.ones(30), np.zeros(10)]).value == 0.5


def test_the_interval_equals_the_quantiles_of_a_binomial_distribution() -> None:
    # Five units of 0 or 1: a bootstrap mean is Binomial(5, 2/5) / 5, whose 2.5 % and 97.5 % quantiles are 0 and 0.8.
    result = Bootstrap(resamples=20_000).macro(items(list("abcde")), np.asarray([1.0, 1.0, 0.0, 0.0, 0.0]))
    assert (result.value, result.low, result.high) == pytest.approx((0.4, 0.0, 0.8))


def test_an_interval_depends_on_its_seed_alone() -> None:
    rng = np.random.default_rng(1)
    values, rows = rng.random(300), items([f"g{i % 50}" for i in range(300)])
    assert Bootstrap(seed=3).macro(rows, values) == Bootstrap(seed=3).macro(rows, values)
    assert Bootstrap(seed=3).macro(rows, values) != Bootstrap(seed=4).macro(rows, values)


def test_intervals_cover_the_true_mean_at_about_their_confidence() -> None:
    rng = np.random.default_rng(2)
    rows = items([f"g{i // 4}" for i in range(160)])
    covered = 0
    for repeat in range(200):
        effect = np.repeat(rng.normal(0.3, 0.2, 40), 4) + rng.normal(0, 0.1, 160)
        interval = Bootstrap(resamples=400, seed=repeat).macro(rows, effect)
        covered += interval.low <= 0.3 <= interval.high
    assert 0.89 <= covered / 200 <= 0.99


def test_one_seed_of_a_table_is_the_vector() -> None:
    rows, values = items([f"g{i % 9}" for i in range(40)]), np.random.default_rng(5).random(40)
    assert Bootstrap().macro(rows, values[None]) == Bootstrap().macro(rows, values)
    assert Bootstrap().by_family(rows, values[None]) == Bootstrap().by_family(rows, values)


def test_equal_seeds_add_nothing_to_the_interval() -> None:
    rows, values = items([f"g{i % 9}" for i in range(40)]), np.random.default_rng(5).random(40)
    one, three = Bootstrap().macro(rows, values), Bootstrap().macro(rows, np.stack([values] * 3))
    assert (three.value, three.low, three.high) == pytest.approx((one.value, one.low, one.high))
    assert (one.resampling, three.resampling) == ("group", "group+seed")


def test_seeds_are_resampled() -> None:
    # Items do not differ, seeds do: a resampled mean of four seeds is Binomial(4, 1/2) / 4, with P(0) = P(1) = 6.25 % and
    # P(<= 1/4) = 31.25 %, so the 90 % interval is [0, 1] and the 60 % interval [1/4, 3/4].
    values = np.repeat([[0.0], [0.0], [1.0], [1.0]], 30, axis=1)
    rows = items([f"g{i}" for i in range(30)])
    wide, narrow = (Bootstrap(20_000, confidence).macro(rows, values) for confidence in (0.9, 0.6))
    assert (wide.value, wide.low, wide.high, wide.n, wide.units) == (0.5, 0.0, 1.0, 30, 30)
    assert (narrow.low, narrow.high) == (0.25, 0.75)
    assert Bootstrap(200).macro(rows, values.mean(axis=0)).high == 0.5


def test_families_of_items_and_seeds_name_both_units() -> None:
    both = items(list("abcdef")) + items(["a"] * 3, "emotion")
    assert Bootstrap(200).macro(both, np.ones((2, 9))).resampling == "mixed+seed"
    assert {f: r.resampling for f, r in Bootstrap(200).by_family(both, np.ones((2, 9))).items()} == {
        "music": "group+seed",
        "emotion": "item+seed",
    }


def test_intervals_over_seeds_cover_the_true_mean() -> None:
    rng = np.random.default_rng(2)
    rows = items([f"g{i // 4}" for i in range(160)])
    covered = {"seeds": 0, "groups": 0}
    for repeat in range(150):
        effect = np.repeat(rng.normal(0.3, 0.2, 40), 4) + rng.normal(0, 0.05, (4, 1)) + rng.normal(0, 0.1, (4, 160))
        for name, values in {"seeds": effect, "groups": effect.mean(axis=0)}.items():
            interval = Bootstrap(resamples=400, seed=repeat).macro(rows, values)
            covered[name] += interval.low <= 0.3 <= interval.high
    assert 0.89 <= covered["seeds"] / 150 <= 0.99
    assert covered["groups"] < covered["seeds"]


def test_seeds_are_averaged_within_items() -> None:
    rows = items(["a", "b"])
    mean = mean_over_seeds([{"music0": 1.0, "music1": 0.0}, {"music1": 1.0, "music0": 1.0}], rows)
    assert mean.tolist() == [1.0, 0.5]
    with pytest.raises(EvaluationError, match="same items"):
        mean_over_seeds([{"music0": 1.0}], rows)
    with pytest.raises(EvaluationError, match="no seed"):
        mean_over_seeds([], rows)


@pytest.mark.parametrize(
    ("rows", "values"),
    [
        pytest.param([], np.zeros(0), id="no-items"),
        pytest.param(items(["a"]), np.zeros(2), id="another-length"),
        pytest.param(items(["a"]), np.zeros((0, 1)), id="no-seeds"),
        pytest.param(items(["a"]), np.zeros((1, 1, 1)), id="another-shape"),
        pytest.param(items(["a"]), np.asarray([np.nan]), id="not-finite"),
    ],
)
def test_values_without_a_mean_are_refused(rows: list[Item], values: np.ndarray) -> None:
    with pytest.raises(EvaluationError):
        Bootstrap().macro(rows, values)
