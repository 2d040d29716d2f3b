"""One arm's scores over its seeds: accuracy, chance and unscored share by family, and differences between two arms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from coat_core.errors import EvaluationError
from coat_core.evaluation.responses import ScoreRow
from coat_core.evaluation.statistics import Bootstrap, Floats, Interval, Item, mean_over_seeds


@dataclass(frozen=True)
class ArmScores:
    """Scores of the same items by every seed of one arm.

    Attributes:
        items: the examples, in manifest order.
        seeds: per seed the rows with the clip's own audio (aligned with `items`).
        others: per seed the rows with another clip's audio, by example id.
    """

    items: tuple[Item, ...]
    seeds: Mapping[int, tuple[ScoreRow, ...]]
    others: Mapping[int, Mapping[str, ScoreRow]]

    @classmethod
    def of(cls, rows: Mapping[int, Sequence[ScoreRow]]) -> ArmScores:
        """Sort the rows of each seed.

        Raises:
            EvaluationError: there is no row, or two seeds hold different items.
        """
        seeds = {seed: tuple(row for row in rows[seed] if row.audio == "own") for seed in sorted(rows)}
        orders = {tuple(row.item for row in own) for own in seeds.values()}
        if len(orders) != 1 or not next(iter(orders)):
            raise EvaluationError(
                "the seeds of an arm hold different items, or none",
                field="scores",
                value=sorted(rows),
                next_step="evaluate all seeds on one manifest",
            )
        return cls(orders.pop(), seeds, {seed: {row.id: row for row in rows[seed] if row.audio == "other"} for seed in seeds})

    @property
    def earned(self) -> Floats:
        """Score per item `[n]`, unscored as 0, averaged over seeds."""
        return mean_over_seeds([{row.id: row.earned for row in own} for own in self.seeds.values()], self.items)

    @property
    def unscored(self) -> Floats:
        """Share of seeds whose response could not be read, per item `[n]`."""
        return mean_over_seeds([{row.id: float(row.score is None) for row in own} for own in self.seeds.values()], self.items)

    @property
    def chance(self) -> Floats:
        """What guessing earns per item `[n]`; NaN for an open answer that had no other clip to be asked about."""
        return mean_over_seeds([{row.id: _guess(row, self.others[seed]) for row in own} for seed, own in self.seeds.items()], self.items)

    def table(self, bootstrap: Bootstrap) -> dict[str, Any]:
        """Return `families` (per family) and `mean` (over families): accuracy with interval, chance and unscored share.

        `clear_of_chance` is true where the interval of accuracy - chance, item by item, lies above zero; null where chance is unknown.
        """
        families = {family: self._entry(rows, bootstrap) for family, rows in self._slices().items()}
        return {"families": families, "mean": self._entry(list(range(len(self.items))), bootstrap)}

    def seed_table(self) -> dict[str, dict[str, Any]]:
        """Return per seed the accuracy of each of the `families` and their `mean`."""
        result = {}
        for seed, own in self.seeds.items():
            earned = np.asarray([row.earned for row in own])
            families = {family: _round(self._mean(rows, earned)) for family, rows in self._slices().items()}
            result[str(seed)] = {"families": families, "mean": _round(self._mean(list(range(len(own))), earned))}
        return result

    def _slices(self) -> dict[str, list[int]]:
        slices: dict[str, list[int]] = {}
        for i, item in enumerate(self.items):
            slices.setdefault(item.family, []).append(i)
        return slices

    def _mean(self, rows: list[int], values: Floats) -> float:
        """Mean over families of the family means (one family: its mean)."""
        by_family: dict[str, list[float]] = {}
        for i in rows:
            by_family.setdefault(self.items[i].family, []).append(float(values[i]))
        return float(np.mean([np.mean(v) for v in by_family.values()]))

    def _entry(self, rows: list[int], bootstrap: Bootstrap) -> dict[str, Any]:
        items = [self.items[i] for i in rows]
        earned, chance = self.earned[rows], self.chance[rows]
        accuracy = bootstrap.macro(items, earned)
        entry: dict[str, Any] = {
            "n": accuracy.n,
            "accuracy": _round(accuracy.value),
            "low": _round(accuracy.low),
            "high": _round(accuracy.high),
            "unscored_share": _round(self._mean(rows, self.unscored)),
            "units": accuracy.units,
            "resampling": accuracy.resampling,
            "chance": None,
            "over_chance": None,
            "over_chance_low": None,
            "over_chance_high": None,
            "clear_of_chance": None,
        }
        if np.isfinite(chance).all():
            over = bootstrap.macro(items, earned - chance)
            entry |= {
                "chance": _round(self._mean(rows, self.chance)),
                "over_chance": _round(over.value),
                "over_chance_low": _round(over.low),
                "over_chance_high": _round(over.high),
                "clear_of_chance": over.low > 0.0,
            }
        return entry


def _guess(row: ScoreRow, others: Mapping[str, ScoreRow]) -> float:
    if row.chance is not None:
        return row.chance
    return others[row.id].earned if row.id in others else np.nan


def difference(first: ArmScores, second: ArmScores, bootstrap: Bootstrap) -> dict[str, Any]:
    """Return `first - second`, paired item by item, for each of the `families` and their `mean`, each with its interval.

    Where both arms ran a seed, only such shared seeds are averaged; else (against `base`, which has one) all of each.

    Raises:
        EvaluationError: the two arms do not hold the same items.
    """
    if first.items != second.items:
        raise EvaluationError("two arms hold different items", field="scores", next_step="evaluate both on the same manifest")
    shared = sorted(set(first.seeds) & set(second.seeds))
    if shared:
        first, second = _only(first, shared), _only(second, shared)
    gap = first.earned - second.earned
    families = {family: _gap(interval) for family, interval in bootstrap.by_family(first.items, gap).items()}
    return {"families": families, "mean": _gap(bootstrap.macro(first.items, gap)), "seeds": shared}


def _gap(interval: Interval) -> dict[str, Any]:
    values = interval.to_json()
    return {"difference": values.pop("value"), **values, "includes_zero": interval.includes_zero}


def _only(arm: ArmScores, seeds: list[int]) -> ArmScores:
    return ArmScores(arm.items, {s: arm.seeds[s] for s in seeds}, {s: arm.others[s] for s in seeds})


def _round(value: float) -> float:
    return round(float(value), 6)
