"""The shared batch functions return the batches of the simple implementations below, which are written for one use each."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from coat_core.batching import length_sorted_batches, padded_batches
from coat_core.experts.store.plan import batches
from coat_core.training.batches import cut_by_seconds

# A few exact values, so that a batch often reaches its limit exactly, and arbitrary ones.
LENGTHS = st.lists(st.one_of(st.sampled_from([0.5, 1.0, 2.0, 3.0, 6.0]), st.floats(0.01, 50.0)), max_size=40)
LIMITS = st.one_of(st.sampled_from([1.0, 6.0, 12.0]), st.floats(0.01, 120.0))


def of_training(indices: Sequence[int], durations_s: Sequence[float], limit_s: float | None) -> list[tuple[int, ...]]:
    if limit_s is None:
        return [tuple(indices)]
    parts: list[list[int]] = []
    for index in indices:
        longest = max((durations_s[i] for i in [*parts[-1], index]), default=0.0) if parts else 0.0
        if parts and (len(parts[-1]) + 1) * longest <= limit_s:
            parts[-1].append(index)
        else:
            parts.append([index])
    return [tuple(part) for part in parts]


def of_extraction(durations_s: dict[str, float], batch_seconds: float) -> list[tuple[str, ...]]:
    found: list[list[str]] = []
    for sha256 in sorted(durations_s, key=lambda sha256: (durations_s[sha256], sha256)):
        if found and (len(found[-1]) + 1) * durations_s[sha256] <= batch_seconds:
            found[-1].append(sha256)
        else:
            found.append([sha256])
    return [tuple(batch) for batch in found]


def of_windows(lengths: Sequence[float], limit: float) -> list[tuple[float, ...]]:
    found: list[tuple[float, ...]] = []
    batch: list[float] = []
    longest = 0.0
    for length in sorted(lengths, key=lambda length: -length):
        if not batch:
            longest = length
        elif (len(batch) + 1) * longest > limit:
            found.append(tuple(batch))
            batch, longest = [], length
        batch.append(length)
    return [*found, tuple(batch)] if batch else found


def of_generation(durations_s: Sequence[float], size: int) -> list[list[int]]:
    order = sorted(range(len(durations_s)), key=lambda i: (-durations_s[i], i))
    return [order[start : start + size] for start in range(0, len(order), size)]


@given(LENGTHS, st.randoms(use_true_random=False), LIMITS | st.none())
def test_batches_of_training(durations_s: list[float], random: object, limit_s: float | None) -> None:
    indices = list(range(len(durations_s)))
    random.shuffle(indices)  # type: ignore[attr-defined]
    assert cut_by_seconds(indices, durations_s, limit_s) == of_training(indices, durations_s, limit_s)


@given(LENGTHS, LIMITS)
def test_batches_of_extraction(durations: list[float], limit_s: float) -> None:
    durations_s = {f"{number * 7919 % 65521:04x}": duration for number, duration in enumerate(durations)}
    assert batches(durations_s, limit_s) == of_extraction(durations_s, limit_s)


@given(LENGTHS, LIMITS)
def test_batches_of_windows(lengths: list[float], limit: float) -> None:
    ordered = sorted(lengths, key=lambda length: -length)
    assert padded_batches(ordered, lambda length: length, limit) == of_windows(lengths, limit)


@given(LENGTHS, st.integers(1, 9))
def test_batches_of_generation(durations_s: list[float], size: int) -> None:
    assert list(length_sorted_batches(durations_s, size)) == of_generation(durations_s, size)


@given(LENGTHS, LIMITS)
def test_padded_batches_keep_the_order_and_the_limit(lengths: list[float], limit: float) -> None:
    found = padded_batches(range(len(lengths)), lengths.__getitem__, limit)
    assert [index for batch in found for index in batch] == list(range(len(lengths)))
    assert all(len(batch) == 1 or len(batch) * max(lengths[index] for index in batch) <= limit for batch in found)


def test_the_longest_come_first() -> None:
    assert list(length_sorted_batches([1.0, 9.0, 2.0, 8.0, 3.0], 2)) == [[1, 3], [4, 2], [0]]
