from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coat_core.errors import TrainingError
from coat_core.training.batches import BatchOrder, cut_by_seconds, derangement

LENGTHS = tuple((7 * i) % 101 for i in range(53))


def order(**changes: object) -> BatchOrder:
    values: dict = {"lengths": LENGTHS, "batch_size": 4, "accumulation": 2, "world": 1, "length_groups": 3, "seed": 0}
    return BatchOrder(**{**values, **changes})


def stream(plan: BatchOrder, stage: str, batches: int) -> list[tuple[int, ...]]:
    """Return the batches in global order: by step, micro step and rank."""
    found = []
    step = 0
    while len(found) < batches:
        found += [plan.batch_indices(stage, step, micro, rank) for micro in range(plan.accumulation) for rank in range(plan.world)]
        step += 1
    return found[:batches]


def test_every_example_occurs_once_in_an_epoch_and_epochs_differ() -> None:
    plan = order()
    epochs = [[i for batch in stream(plan, "ground", 3 * 14)[14 * e : 14 * (e + 1)] for i in batch] for e in range(3)]
    assert all(sorted(epoch) == list(range(53)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]


def test_a_batch_depends_only_on_seed_stage_and_step() -> None:
    fresh = order()
    expected = fresh.batch_indices("respond", 17, 1, 0)
    used = order()
    stream(used, "ground", 90)
    assert used.batch_indices("respond", 17, 1, 0) == expected
    assert order(seed=1).batch_indices("respond", 17, 1, 0) != expected
    assert order().batch_indices("ground", 17, 1, 0) != expected


def test_ranks_and_accumulation_share_one_sequence() -> None:
    assert stream(order(accumulation=2, world=1), "ground", 40) == stream(order(accumulation=1, world=2), "ground", 40)
    assert stream(order(accumulation=4, world=1), "ground", 40) == stream(order(accumulation=2, world=2), "ground", 40)


def padding(batches: list[tuple[int, ...]]) -> int:
    return sum(max(LENGTHS[i] for i in batch) - LENGTHS[j] for batch in batches for j in batch)


def test_length_groups_reduce_padding_and_one_group_disables_them() -> None:
    grouped, ungrouped = stream(order(length_groups=7), "ground", 14), stream(order(length_groups=1), "ground", 14)
    assert padding(grouped) < 0.6 * padding(ungrouped)


def test_within_a_window_batches_are_cut_from_the_sorted_order() -> None:
    epoch = stream(order(length_groups=14), "ground", 14)
    spans = sorted((min(LENGTHS[i] for i in batch), max(LENGTHS[i] for i in batch)) for batch in epoch)
    assert all(a[1] <= b[0] for a, b in pairwise(spans))
    assert [min(LENGTHS[i] for i in batch) for batch in epoch] != sorted(min(LENGTHS[i] for i in batch) for batch in epoch)


def test_no_examples_is_an_error() -> None:
    with pytest.raises(TrainingError, match="no training examples"):
        order(lengths=())


@pytest.mark.parametrize("count", [2, 3, 10])
def test_derangement_is_a_permutation_without_fixed_points(count: int) -> None:
    keys = [f"{i:02d}" for i in range(count)]
    mapping = derangement([*keys, *keys], seed=5)
    assert sorted(mapping) == sorted(mapping.values()) == keys
    assert all(a != b for a, b in mapping.items())
    assert mapping == derangement(keys[::-1], seed=5)


def test_derangement_of_one_clip_is_rejected() -> None:
    with pytest.raises(TrainingError, match="two clips"):
        derangement(["a", "a"], seed=0)


@given(
    durations=st.lists(st.floats(0.1, 30.0), min_size=1, max_size=20),
    limit=st.floats(0.5, 200.0),
)
def test_the_parts_of_a_batch_are_complete_and_within_the_limit(durations: list[float], limit: float) -> None:
    parts = cut_by_seconds(range(len(durations)), durations, limit)
    assert [index for part in parts for index in part] == list(range(len(durations)))
    for part in parts:
        assert len(part) == 1 or len(part) * max(durations[index] for index in part) <= limit
    for first, second in pairwise(parts):
        together = [*first, second[0]]
        assert len(together) * max(durations[index] for index in together) > limit, "a part is as large as the limit allows"


def test_a_batch_without_a_limit_is_not_cut() -> None:
    assert cut_by_seconds([3, 1], [1.0] * 4, None) == [(3, 1)]
