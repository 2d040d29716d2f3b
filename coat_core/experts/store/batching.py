"""What a neural expert hears at once: clips of like length, out of the same group of neighbouring shards.

The audio's hash spreads clips over up to 256 shards, so that one shard of a small corpus has too few clips for a batch. Batches are
therefore cut from groups of consecutive shards, by length.

What stands in one batch shows in the last bit of its features (the order of a sum depends on the shapes). It must not depend on what a
killed run had done, so the clips to be computed are written down (`Plan`) before anything is: a run that goes on after a kill takes
the same batches, and drops what it computes a second time.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from coat_core.experts.store.shard import shard_name
from coat_core.storage import sha256_json, write_json

PLAN = "plan.json"
"""Lies in a store only while it is being worked on."""
GROUP_BATCHES = 8
"""How many full batches a group of shards holds, about: what is kept in memory, and what a kill costs at most."""

Batch = tuple[str, ...]
"""Audio hashes."""


@dataclass(frozen=True)
class Plan:
    """Which clips a run computes, and in which batches.

    Attributes:
        durations_s: of every clip that was missing when the work was begun, by audio hash.
        batch_seconds: the most seconds of audio, padding included, in one batch; a longer clip is a batch of its own.
    """

    durations_s: Mapping[str, float]
    batch_seconds: float

    def groups(self) -> list[list[Batch]]:
        """Return the batches, in groups whose clips lie in the same consecutive shards; no shard is in two groups."""
        found: list[list[Batch]] = []
        group: dict[str, float] = {}
        ordered = sorted(self.durations_s)
        for sha256, following in pairwise([*ordered, ""]):
            group[sha256] = self.durations_s[sha256]
            ends_shard = not following or shard_name(following) != shard_name(sha256)
            if not following or (ends_shard and sum(group.values()) >= GROUP_BATCHES * self.batch_seconds):
                found.append(batches(group, self.batch_seconds))
                group = {}
        return found


def batches(durations_s: Mapping[str, float], batch_seconds: float) -> list[Batch]:
    """Cut clips, sorted by length, into batches of at most so many seconds, padding included."""
    found: list[list[str]] = []
    for sha256 in sorted(durations_s, key=lambda sha256: (durations_s[sha256], sha256)):
        if found and (len(found[-1]) + 1) * durations_s[sha256] <= batch_seconds:
            found[-1].append(sha256)
        else:
            found.append([sha256])
    return [tuple(batch) for batch in found]


def begin_plan(target: Path, fingerprint: str, durations_s: Mapping[str, float], missing: Sequence[str], batch_seconds: float) -> Plan:
    """Return the plan that a killed run of the same work left, else write down and return a new one.

    Args:
        target: the store.
        fingerprint: of the expert.
        durations_s: of every clip of the corpus, by audio hash.
        missing: clips that no shard of the store holds yet.
        batch_seconds: most seconds in a batch.
    """
    work = {"fingerprint": fingerprint, "corpus": sha256_json(sorted(durations_s.items())), "batch_seconds": batch_seconds}
    left = _read(target / PLAN)
    if left is not None and left["work"] == work and set(missing) <= set(left["missing"]) <= set(durations_s):
        missing = left["missing"]
    elif missing:
        write_json(target / PLAN, {"work": work, "missing": sorted(missing)})
    return Plan({sha256: durations_s[sha256] for sha256 in missing}, batch_seconds)


def _read(path: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(path.read_text())
        return found if set(found) == {"work", "missing"} else None
    except (OSError, ValueError, TypeError):
        return None
