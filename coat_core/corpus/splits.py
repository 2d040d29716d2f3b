"""Assignment of groups and rows to splits, reproducible from a seed. All rows of a group are in the same split."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from coat_core.corpus.examples import SPLITS, Split
from coat_core.errors import CorpusError
from coat_core.storage import sha256_bytes

SHARES: dict[Split, float] = {"train": 0.55, "validation": 0.15, "test": 0.30}
"""Shares of the groups of each stratum. The test share leaves enough actors and sources for a bootstrap over groups."""


def group_of(parts: Iterable[str]) -> tuple[str, tuple[str, ...] | None]:
    """Return `group` and `group_parts` of a clip composed of recordings of these groups.

    A group id is an opaque string: the joined name "a+b" is never divided again. The parts are null for one group.
    """
    names = tuple(sorted(set(parts)))
    return "+".join(names), names if len(names) > 1 else None


def split_groups(strata: Mapping[str, str], seed: int) -> dict[str, Split]:
    """Assign groups to splits: by `SHARES` within each stratum, with at least one group in each split.

    Args:
        strata: the stratum of each group (an event class, an octave). Every split contains groups of every stratum.
        seed: seed of the assignment.

    Raises:
        CorpusError: a stratum has fewer groups than there are splits.
    """
    members: dict[str, list[str]] = defaultdict(list)
    for group, stratum in strata.items():
        members[stratum].append(group)
    assigned: dict[str, Split] = {}
    for stratum, groups in sorted(members.items()):
        if len(groups) < len(SPLITS):
            raise CorpusError(
                f"{stratum}: too few groups for separate splits",
                field="group",
                value=sorted(groups),
                allowed=f"at least {len(SPLITS)}",
                next_step="add recordings of other speakers or sources, or remove this label from the index",
            )
        groups.sort(key=lambda group: sha256_bytes(f"{seed}/{group}".encode()))
        held_out = 0
        for split in ("validation", "test"):
            count = max(1, round(SHARES[split] * len(groups)))
            count = min(count, len(groups) - held_out - (2 if split == "validation" else 1))
            assigned.update(dict.fromkeys(groups[held_out : held_out + count], split))
            held_out += count
        assigned.update(dict.fromkeys(groups[held_out:], "train"))
    return assigned


def split_rows(keys: Iterable[Iterable[str]], given: Sequence[Split | None], shares: Mapping[Split, float], seed: int) -> list[Split]:
    """Assign a split to every row. Rows that share a key (a group, an audio hash), directly or through other rows, get the same split.

    A row with a given split keeps it, and the rows connected to it get the same split. The split of other rows depends on a hash of the
    smallest key that they are connected to. If no split is given and there are enough separate sets of rows, no split stays empty.

    Args:
        keys: the keys of each row, at least one; they are read once.
        given: the split of each row in the data, or None.
        shares: relative size of each split.
        seed: seed of the assignment.
    """
    roots = _connected(keys)
    pinned: dict[str, Split] = {}
    for root, split in zip(roots, given, strict=True):
        if split is not None:
            pinned.setdefault(root, split)
    assigned = {root: pinned.get(root) or _split_by_hash(root, shares, seed) for root in roots}
    if not pinned:
        _fill_empty_splits(assigned, shares, seed)
    return [split or assigned[root] for root, split in zip(roots, given, strict=True)]


def place_unlabelled(keys: Iterable[Iterable[str]], known: Sequence[Split | None]) -> list[Split | None]:
    """Complete the splits with those of unlabelled rows, which can only train.

    A row without a known split gets `train`, or None if it shares a key, directly or through other rows, with a row of another split:
    its audio is that of a held-out group and must not be used.

    Args:
        keys: the keys of each row, at least one.
        known: the split of each labelled row; None for an unlabelled row.
    """
    roots = _connected(keys)
    held_out = {root for root, split in zip(roots, known, strict=True) if split is not None and split != "train"}
    return [split or (None if root in held_out else "train") for root, split in zip(roots, known, strict=True)]


def _connected(keys: Iterable[Iterable[str]]) -> list[str]:
    """Return for each row the smallest key of the rows that it is connected to through shared keys."""
    parent: dict[str, str] = {}

    def root(key: str) -> str:
        parent.setdefault(key, key)
        while parent[key] != key:
            parent[key] = parent[parent[key]]
            key = parent[key]
        return parent[key]  # one object for all rows, where `key` may be the row's own

    firsts = []
    for row in keys:
        first, *others = row
        for other in others:
            low, high = sorted((root(first), root(other)))
            parent[high] = low
        firsts.append(root(first))
    return [root(first) for first in firsts]


def _fill_empty_splits(assigned: dict[str, Split], shares: Mapping[Split, float], seed: int) -> None:
    """Move one key of the largest split to each split that has a share but no key, as long as another key remains."""
    for empty in SPLITS:
        if shares.get(empty, 0.0) <= 0 or empty in assigned.values():
            continue
        members = {split: [key for key, its in assigned.items() if its == split] for split in SPLITS}
        largest = max(SPLITS, key=lambda split: len(members[split]))
        if len(members[largest]) > 1:
            assigned[min(members[largest], key=lambda key: sha256_bytes(f"{seed}/{key}".encode()))] = empty


def _split_by_hash(key: str, shares: Mapping[Split, float], seed: int) -> Split:
    """Return the split at a position in the cumulative shares that a hash of `key` determines."""
    point = int(sha256_bytes(f"{seed}/{key}".encode())[:12], 16) / 16**12 * sum(shares.values())
    for split in SPLITS:
        point -= shares.get(split, 0.0)
        if point < 0:
            return split
    return "train"
