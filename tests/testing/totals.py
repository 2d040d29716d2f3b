"""Counts that normalise the losses of one batch."""

from __future__ import annotations

from coat_core.backbones.base import Batch
from coat_core.thinking.losses import BatchTargets, Totals


def count_totals(batch: Batch, targets: BatchTargets) -> Totals:
    """Return the totals of an accumulation window of one batch on one rank."""
    clips = {key: sum(target is not None and bool(target[1].any()) for target in rows) for key, rows in targets.items()}
    return Totals(int(batch.answer_mask[:, 1:].sum()), clips)
