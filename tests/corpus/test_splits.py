"""Assignment of groups and rows to splits."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from coat_core.corpus.examples import SPLITS, Split
from coat_core.corpus.splits import split_groups, split_rows
from coat_core.errors import CorpusError


def test_every_split_gets_groups_of_every_stratum() -> None:
    strata = {f"{stratum}{number}": stratum for stratum, count in (("a", 3), ("b", 4), ("c", 16), ("d", 40)) for number in range(count)}
    assigned = split_groups(strata, seed=1)
    counts = Counter((strata[group], split) for group, split in assigned.items())
    assert [counts["a", split] for split in SPLITS] == [1, 1, 1]
    assert [counts["b", split] for split in SPLITS] == [2, 1, 1]
    assert [counts["c", split] for split in SPLITS] == [9, 2, 5]
    assert [counts["d", split] for split in SPLITS] == [22, 6, 12]
    assert assigned != split_groups(strata, seed=2)
    with pytest.raises(CorpusError, match="too few groups"):
        split_groups({"x": "s", "y": "s"}, seed=1)


def test_rows_that_share_a_key_get_the_same_split() -> None:
    keys = [[f"g{number}"] for number in range(400)] + [["g0", "h"], ["h", "pinned"], ["pinned"]]
    splits = split_rows(keys, [None] * 402 + ["test"], {"train": 6.0, "validation": 2.0, "test": 2.0}, seed=3)
    assert {splits[0], *splits[400:]} == {"test"}
    counts = Counter(splits[1:400])
    assert 200 < counts["train"] < 280
    assert 50 < counts["test"] < 110


@pytest.mark.parametrize(
    "shares", [{"train": 6.0, "validation": 2.0, "test": 2.0}, {"train": 60, "validation": 1, "test": 40}, {"train": 6, "test": 2}]
)
@pytest.mark.parametrize("count", [2, 3, 5, 15])
def test_no_split_with_a_share_stays_empty(count: int, shares: dict[Any, float]) -> None:
    for seed in range(30):
        splits = split_rows([[f"group spk{n:02d}+noisy", f"sha256 {n}"] for n in range(count)], [None] * count, shares, seed)
        assert len(set(splits)) == min(count, len(shares)), (seed, splits)
        assert set(splits) <= set(shares)


def test_given_splits_are_never_changed() -> None:
    given: list[Split | None] = ["test", "test", "train", None]
    splits = split_rows([["a"], ["a+b"], ["b"], ["b+c"]], given, {"train": 6.0, "validation": 2.0, "test": 2.0}, seed=1)
    assert splits[:3] == given[:3]
