"""Which split a group goes to: reproducible from a seed, and never two splits for one group."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from coat_core.corpus.examples import SPLITS, Split
from coat_core.errors import CorpusError
from coat_core.storage import sha256_bytes

SHARES: dict[Split, float] = {"train": 0.55, "validation": 0.15, "test": 0.30}
"""Share of the groups of each kind: enough held-out actors and sources to resample the test split by group."""
JOIN = "+"
"""Between the groups of a clip that was composed of several recordings."""


def atoms(group: str) -> list[str]:
    """Return the single groups of a group id."""
    return group.split(JOIN)


def join_groups(groups: Iterable[str]) -> str:
    """Return the group id of a clip composed of recordings of these groups."""
    return JOIN.join(sorted(set(groups)))


def split_groups(strata: Mapping[str, str], seed: int) -> dict[str, Split]:
    """Deal groups into splits, within each stratum by `SHARES` and with at least one group for each split.

    Args:
        strata: the stratum of each group (say an event class, an octave): every split gets a part of every stratum.
        seed: decides which groups go where.

    Raises:
        CorpusError: a stratum has fewer groups than there are splits.
    """
    members: dict[str, list[str]] = defaultdict(list)
    for group, stratum in strata.items():
        members[stratum].append(group)
    dealt: dict[str, Split] = {}
    for stratum, groups in sorted(members.items()):
        if len(groups) < len(SPLITS):
            raise CorpusError(
                f"{stratum}: too few groups to keep the splits apart",
                field="group",
                value=sorted(groups),
                allowed=f"at least {len(SPLITS)}",
                next_step="add recordings of other speakers or sources, or leave this label out of the index",
            )
        groups.sort(key=lambda group: sha256_bytes(f"{seed}/{group}".encode()))
        held_out = 0
        for split in ("validation", "test"):
            count = max(1, round(SHARES[split] * len(groups)))
            count = min(count, len(groups) - held_out - (2 if split == "validation" else 1))
            dealt.update(dict.fromkeys(groups[held_out : held_out + count], split))
            held_out += count
        dealt.update(dict.fromkeys(groups[held_out:], "train"))
    return dealt


def split_rows(keys: Sequence[Iterable[str]], given: Sequence[Split | None], shares: Mapping[Split, float], seed: int) -> list[Split]:
    """Choose a split for every row that has none, so that rows which share a key (a group, an audio hash) stay together.

    A row with a split keeps it, and rows bound to it follow; the others fall by a hash of the smallest key they are bound to.

    Args:
        keys: the keys of each row, at least one.
        given: the split of each row, where the data say so.
        shares: how much each split should get, in any unit.
        seed: changes which groups go where.
    """
    parent: dict[str, str] = {}

    def root(key: str) -> str:
        parent.setdefault(key, key)
        while parent[key] != key:
            parent[key] = parent[parent[key]]
            key = parent[key]
        return key

    roots = []
    for row in keys:
        first, *others = row
        for other in others:
            low, high = sorted((root(first), root(other)))
            parent[high] = low
        roots.append(first)
    pinned: dict[str, Split] = {}
    for key, split in zip(roots, given, strict=True):
        if split is not None:
            pinned.setdefault(root(key), split)
    return [split or pinned.get(root(key)) or _by_hash(root(key), shares, seed) for key, split in zip(roots, given, strict=True)]


def _by_hash(key: str, shares: Mapping[Split, float], seed: int) -> Split:
    point = int(sha256_bytes(f"{seed}/{key}".encode())[:12], 16) / 16**12 * sum(shares.values())
    for split in SPLITS:
        point -= shares.get(split, 0.0)
        if point < 0:
            return split
    return "train"
