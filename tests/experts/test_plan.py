from __future__ import annotations

import itertools

import numpy as np
import pytest

from coat_core.experts.store import plan
from coat_core.experts.store.plan import Plan, batches
from coat_core.shards.layout import layout_of


def test_batches_contain_clips_of_similar_length_within_the_limit() -> None:
    rng = np.random.default_rng(0)
    durations = {f"{n:04x}": float(seconds) for n, seconds in enumerate(rng.uniform(0.5, 12.0, 200))} | {"long": 70.0}
    found = batches(durations, 30.0)
    assert sorted(sha256 for batch in found for sha256 in batch) == sorted(durations)
    assert all(len(batch) * max(durations[s] for s in batch) <= 30.0 for batch in found if batch != ("long",))
    assert ("long",) in found
    padded = sum(len(batch) * max(durations[s] for s in batch) for batch in found)
    assert padded < 1.1 * sum(durations.values())
    # A few batches are full: the limit is used.
    assert len(found) < 1.25 * sum(durations.values()) / 30.0
    assert batches(dict(reversed(durations.items())), 30.0) == found


def test_no_shard_is_in_two_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coat_core.shards.layout.PREFIX_LENGTH", 1)
    monkeypatch.setattr(plan, "GROUP_BATCHES", 2)
    rng = np.random.default_rng(1)
    durations = {f"{rng.integers(256):02x}{n:04x}": 3.0 for n in range(400)}
    layout = layout_of(durations, 50.0, 100)
    groups = Plan(durations, 30.0, layout).groups()
    of_group = [{layout.name(sha256) for batch in group for sha256 in batch} for group in groups]
    assert len(groups) > 5
    assert sum(map(len, of_group)) == len(set().union(*of_group))
    assert sorted(sha256 for group in groups for batch in group for sha256 in batch) == sorted(durations)
    assert all(max(part) < min(following) for part, following in itertools.pairwise(of_group))
    assert sum(len(group) > 1 for group in groups) >= len(groups) - 1
