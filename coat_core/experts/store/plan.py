"""Batches of a neural expert: clips of similar length from a group of consecutive shards.

The audio's hash distributes clips over 256 shards or more, so that one shard of a small corpus has too few clips for a batch. Batches are
therefore cut from groups of consecutive shards, by length.

The other clips of a batch change the last bit of a clip's features (the order of a sum depends on the shapes). The batches must not
depend on the progress of a killed run, so the clips to be computed are saved (`Plan`) before the first batch: a resumed run uses the same
batches and drops the clips that it computes a second time.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from coat_core.batching import padded_batches
from coat_core.shards.layout import Layout
from coat_core.storage import sha256_json, write_json

PLAN = "plan.json"
"""File of a store; it exists during an extraction only."""
GROUP_BATCHES = 8
"""Approximate number of full batches in a group of shards: the clips held in memory, and the most work that a kill loses."""

Batch = tuple[str, ...]
"""Audio hashes."""


@dataclass(frozen=True)
class Plan:
    """The clips that a run computes, and their batches.

    Attributes:
        durations_s: duration of every clip that was missing when the extraction began, by audio hash.
        batch_seconds: most seconds of audio, padding included, in one batch; a longer clip forms a separate batch.
        layout: the shards of the store.
    """

    durations_s: Mapping[str, float]
    batch_seconds: float
    layout: Layout

    def groups(self) -> list[list[Batch]]:
        """Return the batches in groups; the clips of a group are those of consecutive shards, and no shard is in two groups."""
        found: list[list[Batch]] = []
        group: dict[str, float] = {}
        ordered = sorted(self.durations_s)
        for sha256, following in pairwise([*ordered, ""]):
            group[sha256] = self.durations_s[sha256]
            ends_shard = not following or self.layout.name(following) != self.layout.name(sha256)
            if not following or (ends_shard and sum(group.values()) >= GROUP_BATCHES * self.batch_seconds):
                found.append(batches(group, self.batch_seconds))
                group = {}
        return found


def batches(durations_s: Mapping[str, float], batch_seconds: float) -> list[Batch]:
    """Cut clips, sorted by duration, into batches of at most `batch_seconds` seconds, padding included."""
    ordered = sorted(durations_s, key=lambda sha256: (durations_s[sha256], sha256))
    return padded_batches(ordered, durations_s.__getitem__, batch_seconds)


def begin_plan(
    target: Path, fingerprint: str, durations_s: Mapping[str, float], missing: Sequence[str], batch_seconds: float, layout: Layout
) -> Plan:
    """Return the plan saved by a killed run of the same extraction, if it exists; otherwise save and return a new one.

    Args:
        target: folder of the store.
        fingerprint: fingerprint of the expert.
        durations_s: duration of every clip of the corpus, by audio hash.
        missing: clips that are in no shard of the store.
        batch_seconds: most seconds of audio, padding included, in a batch.
        layout: the shards of the store, which depend on the clips of the corpus alone.
    """
    work = {"fingerprint": fingerprint, "corpus": sha256_json(sorted(durations_s.items())), "batch_seconds": batch_seconds}
    stored = _read(target / PLAN)
    if stored is not None and stored["work"] == work and set(missing) <= set(stored["missing"]) <= set(durations_s):
        missing = stored["missing"]
    elif missing:
        write_json(target / PLAN, {"work": work, "missing": sorted(missing)})
    return Plan({sha256: durations_s[sha256] for sha256 in missing}, batch_seconds, layout)


def _read(path: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(path.read_text())
        return found if set(found) == {"work", "missing"} else None
    except (OSError, ValueError, TypeError):
        return None
