"""Scores of one arm over its seeds: accuracy, chance and unscored share by family; paired differences between two arms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from coat_core.errors import EvaluationError
from coat_core.evaluation.scores import ScoreRow
from coat_core.evaluation.statistics import Bootstrap, Floats, Interval, Item, scores_by_seed


@dataclass(frozen=True)
class ArmScores:
    """Scores of one arm: every seed scored the same items.

    Attributes:
        items: the examples, in manifest order.
        seeds: per seed the rows with the example's own clip (aligned with `items`).
        others: per seed the rows with the clip of another example, by example id.
    """

    items: tuple[Item, ...]
    seeds: Mapping[int, tuple[ScoreRow, ...]]
    others: Mapping[int, Mapping[str, ScoreRow]]

    @classmethod
    def of(cls, rows: Mapping[int, Sequence[ScoreRow]]) -> ArmScores:
        """Separate the rows of each seed by the clip that was played.

        Raises:
            EvaluationError: there are no rows, or two seeds have different items.
        """
        seeds = {seed: tuple(row for row in rows[seed] if row.audio == "own") for seed in sorted(rows)}
        orders = {tuple(row.item for row in own) for own in seeds.values()}
        if len(orders) != 1 or not next(iter(orders)):
            raise EvaluationError(
                "the seeds of an arm have different items, or none",
                field="scores",
                value=sorted(rows),
                next_step="run the answer and score stages of all seeds on one manifest",
            )
        return cls(orders.pop(), seeds, {seed: {row.id: row for row in rows[seed] if row.audio == "other"} for seed in seeds})

    @property
    def by_seed(self) -> Floats:
        """Score per seed and item `[S, n]`, unscored as 0."""
        return scores_by_seed([{row.id: row.value for row in own} for own in self.seeds.values()], self.items)

    @property
    def values(self) -> Floats:
        """Score per item `[n]`, unscored as 0, averaged over seeds."""
        return np.asarray(self.by_seed.mean(axis=0), dtype=np.float64)

    @property
    def unscored(self) -> Floats:
        """Share of seeds whose response is unscored, per item `[n]`."""
        table = scores_by_seed([{row.id: float(row.score is None) for row in own} for own in self.seeds.values()], self.items)
        return np.asarray(table.mean(axis=0), dtype=np.float64)

    @property
    def chance_by_seed(self) -> Floats:
        """Expected score of guessing, per seed and item `[S, n]`; NaN for an open-ended example without a response to another clip."""
        return scores_by_seed([{row.id: _chance(row, self.others[seed]) for row in own} for seed, own in self.seeds.items()], self.items)

    @property
    def chance(self) -> Floats:
        """Expected score of guessing, per item `[n]`, averaged over seeds; NaN as in `chance_by_seed`."""
        return np.asarray(self.chance_by_seed.mean(axis=0), dtype=np.float64)

    def table(self, bootstrap: Bootstrap) -> dict[str, Any]:
        """Return `families` (per family) and `mean` (over families): accuracy with interval, chance and unscored share.

        `clear_of_chance` is true if the interval of accuracy - chance (paired by item) is above zero, and null if chance is unknown.
        `too_few` is true for fewer than 20 items or 5 groups; such an interval is not evidence, so `clear_of_chance` is not true then.
        """
        families = {family: self._entry(rows, bootstrap) for family, rows in self._rows_by_family().items()}
        return {"families": families, "mean": self._entry(list(range(len(self.items))), bootstrap)}

    def over_chance(self, bootstrap: Bootstrap) -> Interval | None:
        """Return the mean over families of accuracy - chance, paired by item, with its interval; None if a chance is unknown."""
        chance = self.chance_by_seed
        return bootstrap.macro(self.items, self.by_seed - chance) if np.isfinite(chance).all() else None

    def seed_table(self) -> dict[str, dict[str, Any]]:
        """Return per seed the accuracy of each of the `families` and their `mean`."""
        result = {}
        for seed, own in self.seeds.items():
            values = np.asarray([row.value for row in own])
            families = {family: _round(self._mean(rows, values)) for family, rows in self._rows_by_family().items()}
            result[str(seed)] = {"families": families, "mean": _round(self._mean(list(range(len(own))), values))}
        return result

    def _rows_by_family(self) -> dict[str, list[int]]:
        rows: dict[str, list[int]] = {}
        for i, item in enumerate(self.items):
            rows.setdefault(item.family, []).append(i)
        return rows

    def _mean(self, rows: list[int], values: Floats) -> float:
        """Return the mean over families of the family means."""
        by_family: dict[str, list[float]] = {}
        for i in rows:
            by_family.setdefault(self.items[i].family, []).append(float(values[i]))
        return float(np.mean([np.mean(v) for v in by_family.values()]))

    def _entry(self, rows: list[int], bootstrap: Bootstrap) -> dict[str, Any]:
        items = [self.items[i] for i in rows]
        values, chance = self.by_seed[:, rows], self.chance_by_seed[:, rows]
        accuracy = bootstrap.macro(items, values)
        entry: dict[str, Any] = {
            "n": accuracy.n,
            "accuracy": _round(accuracy.value),
            "low": _round(accuracy.low),
            "high": _round(accuracy.high),
            "unscored_share": _round(self._mean(rows, self.unscored)),
            "units": accuracy.units,
            "resampling": accuracy.resampling,
            "groups": accuracy.groups,
            "too_few": accuracy.too_few,
            "chance": None,
            "over_chance": None,
            "over_chance_low": None,
            "over_chance_high": None,
            "clear_of_chance": None,
        }
        if np.isfinite(chance).all():
            over = bootstrap.macro(items, values - chance)
            entry |= {
                "chance": _round(self._mean(rows, self.chance)),
                "over_chance": _round(over.value),
                "over_chance_low": _round(over.low),
                "over_chance_high": _round(over.high),
                "clear_of_chance": over.low > 0.0 and not over.too_few,
            }
        return entry


def _chance(row: ScoreRow, others: Mapping[str, ScoreRow]) -> float:
    if row.chance is not None:
        return row.chance
    return others[row.id].value if row.id in others else np.nan


def difference(first: ArmScores, second: ArmScores, bootstrap: Bootstrap) -> dict[str, Any]:
    """Return `first - second`, paired by item, for each of the `families` and their `mean`, each with its interval.

    Scores are averaged over the seeds that both arms have, and intervals resample these seeds, the same draw for both arms, as well as
    groups. Without a shared seed (an untrained arm has one seed), scores are averaged over all seeds of each arm; the seeds are resampled
    if only one arm has several.

    Raises:
        EvaluationError: the two arms have different items.
    """
    if first.items != second.items:
        raise EvaluationError(
            "two arms have different items", field="scores", next_step="run the answer and score stages of both on one manifest"
        )
    shared = sorted(set(first.seeds) & set(second.seeds))
    if shared:
        first, second = _select_seeds(first, shared), _select_seeds(second, shared)
    one_seed = min(len(first.seeds), len(second.seeds)) == 1
    gap = first.by_seed - second.by_seed if shared or one_seed else first.values - second.values
    families = {family: _gap(interval) for family, interval in bootstrap.by_family(first.items, gap).items()}
    return {"families": families, "mean": _gap(bootstrap.macro(first.items, gap)), "seeds": shared}


def _gap(interval: Interval) -> dict[str, Any]:
    values = interval.to_json()
    return {"difference": values.pop("value"), **values, "too_few": interval.too_few, "includes_zero": interval.includes_zero}


def _select_seeds(arm: ArmScores, seeds: list[int]) -> ArmScores:
    return ArmScores(arm.items, {s: arm.seeds[s] for s in seeds}, {s: arm.others[s] for s in seeds})


def _round(value: float) -> float:
    return round(float(value), 6)
