"""Means and their intervals by a bootstrap over groups and seeds.

Items of one group (a speaker, a source recording) are not independent, so groups are resampled, not items (the cluster bootstrap,
Davison & Hinkley 1997, § 3.8; percentile intervals). A family with fewer than five groups is resampled by item; the result states
which unit was resampled.

Several seeds answer the same items, so groups and seeds are crossed: both are resampled with replacement, independently of each other
(the pigeonhole bootstrap, Owen 2007, Annals of Applied Statistics 1(2)). The interval then covers the choice of items and of seeds. Its
coverage, simulated with 3 seeds and 400 groups, is 97 % if seeds do not differ (92 % if only groups are resampled), and 93 % if the
standard deviation between seeds is twice the standard error over groups (78 % if only groups are resampled).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from coat_core.errors import EvaluationError

MIN_ITEMS = 20
"""An interval over fewer items is not evidence: every comparison calls it too few."""
MIN_GROUPS = 5
"""An interval over fewer groups is not evidence either. Items are resampled instead: so few groups do not represent other groups."""

Floats = NDArray[np.float64]
Resampling = Literal["group", "item", "mixed", "group+seed", "item+seed", "mixed+seed"]
_BLOCK = 1 << 22


@dataclass(frozen=True)
class Item:
    """The fields of an example that resampling uses."""

    id: str
    family: str
    group: str
    """A composite group ("a+b") is a separate group."""


@dataclass(frozen=True)
class Interval:
    """A mean with its bootstrap interval.

    Attributes:
        value: mean over items; of the macro mean, mean over families.
        low: lower bound.
        high: upper bound.
        n: number of items.
        units: number of resampled units, groups or items.
        resampling: the kind of unit: "group", "item", or "mixed" for a macro mean over families of both kinds; with "+seed", seeds are
            resampled, too.
        groups: number of distinct groups of the items.
    """

    value: float
    low: float
    high: float
    n: int
    units: int
    resampling: Resampling
    groups: int

    @property
    def too_few(self) -> bool:
        """Whether the items or groups are too few for evidence."""
        return too_few(self.n, self.groups)

    @property
    def includes_zero(self) -> bool:
        """Whether the interval includes zero."""
        return self.low <= 0.0 <= self.high

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON, rounded to six digits."""
        return {k: round(v, 6) if isinstance(v, float) else v for k, v in asdict(self).items()}


@dataclass(frozen=True)
class Bootstrap:
    """Settings of the bootstrap: number of resamples, two-sided confidence, seed."""

    resamples: int = 2000
    confidence: float = 0.95
    seed: int = 11

    def by_family(self, items: Sequence[Item], values: Floats) -> dict[str, Interval]:
        """Return per family the mean of `values` and its interval, families in order of appearance.

        Args:
            items: n items.
            values: one value per item, `[n]`, or per seed and item, `[S, n]`. Two seeds or more are resampled.

        Raises:
            EvaluationError: there are no items, the lengths differ, or a value is not finite.
        """
        _check(items, values)
        result = {}
        for family in dict.fromkeys(item.family for item in items):
            rows = [i for i, item in enumerate(items) if item.family == family]
            result[family] = self._mean([items[i] for i in rows], values[..., rows])
        return result

    def macro(self, items: Sequence[Item], values: Floats) -> Interval:
        """Return the mean over families of the family means and its interval; units are resampled for all families together.

        Args:
            items: n items.
            values: one value per item, `[n]`, or per seed and item, `[S, n]`. Two seeds or more are resampled.

        Raises:
            EvaluationError: there are no items, the lengths differ, or a value is not finite.
        """
        _check(items, values)
        return self._mean(items, values)

    def _mean(self, items: Sequence[Item], values: Floats) -> Interval:
        families = list(dict.fromkeys(item.family for item in items))
        unit_names, kinds = resampling_units(items)
        codes = {name: i for i, name in enumerate(dict.fromkeys(unit_names))}
        table = np.atleast_2d(values)
        sums, counts = np.zeros((len(table), len(codes), len(families))), np.zeros((len(codes), len(families)))
        where = ([codes[name] for name in unit_names], [families.index(item.family) for item in items])
        for seed, row in enumerate(table):
            np.add.at(sums[seed], where, row)
        np.add.at(counts, where, 1.0)
        tail = (1.0 - self.confidence) / 2.0
        low, high = np.quantile(self._draws(sums, counts), [tail, 1.0 - tail])
        value = float(np.mean(sums.mean(axis=0).sum(axis=0) / counts.sum(axis=0)))
        kind = kinds.pop() if len(kinds) == 1 else "mixed"
        resampling: Any = f"{kind}+seed" if len(table) > 1 else kind
        return Interval(value, float(low), float(high), len(items), len(codes), resampling, len({item.group for item in items}))

    def _draws(self, sums: Floats, counts: Floats) -> Floats:
        """Return the resampled means `[resamples]`, from sums `[seeds, units, families]` and counts `[units, families]`."""
        generator = np.random.default_rng(self.seed)
        seeds, units, families = sums.shape
        share = np.full(units, 1.0 / units)
        # The units' draws do not depend on the number of seeds.
        of_seeds = np.random.default_rng([self.seed, seeds]).multinomial(seeds, np.full(seeds, 1.0 / seeds), size=self.resamples) / seeds
        by_unit = sums.transpose(1, 0, 2).reshape(units, seeds * families)
        means, left = [], self.resamples
        while left:
            rows = min(left, max(1, _BLOCK // units))
            weights = generator.multinomial(units, share, size=rows).astype(np.float64)
            drawn = weights @ counts
            drawn_sums = (weights @ by_unit).reshape(rows, seeds, families)
            start = self.resamples - left
            totals = drawn_sums[:, 0] if seeds == 1 else np.einsum("rs,rsf->rf", of_seeds[start : start + rows], drawn_sums)
            # A draw may contain no unit of a family; its mean is over the other families.
            ratios = np.divide(totals, drawn, out=np.zeros_like(drawn), where=drawn > 0)
            means.append(ratios.sum(axis=1) / (drawn > 0).sum(axis=1))
            left -= rows
        return np.concatenate(means)


def too_few(items: int, groups: int | None = None) -> bool:
    """Return whether an interval over so many items and distinct groups (None: not recorded) is not evidence."""
    return items < MIN_ITEMS or (groups is not None and groups < MIN_GROUPS)


def resampling_units(items: Sequence[Item]) -> tuple[list[str], set[Literal["group", "item", "mixed"]]]:
    """Return the unit of each item (its group, or the item itself if its family has < 5 groups) and the kinds of units used."""
    groups: dict[str, set[str]] = {}
    for item in items:
        groups.setdefault(item.family, set()).add(item.group)
    by_group = {family: len(members) >= MIN_GROUPS for family, members in groups.items()}
    names = [f"group {item.group}" if by_group[item.family] else f"item {item.id}" for item in items]
    return names, {"group" if grouped else "item" for grouped in by_group.values()}


def scores_by_seed(scores: Sequence[Mapping[str, float]], items: Sequence[Item]) -> Floats:
    """Return several seeds' scores (item id → score) as a table `[S, n]`, items in the order of `items`.

    Raises:
        EvaluationError: a seed lacks an item, or there are no seeds.
    """
    if not scores:
        raise EvaluationError(
            "there are no seeds to average", field="scores", next_step="run the score stage of at least one trial of the arm"
        )
    for seed in scores:
        missing = [item.id for item in items if item.id not in seed]
        if missing:
            raise EvaluationError(
                "two evaluations do not have the same items",
                field="scores",
                value=missing[:3],
                next_step="run the answer and score stages of both on the same manifest",
            )
    return np.asarray([[seed[item.id] for item in items] for seed in scores], dtype=np.float64)


def mean_over_seeds(scores: Sequence[Mapping[str, float]], items: Sequence[Item]) -> Floats:
    """Average several seeds' scores (item id → score) within each item; return `[n]` in the order of `items`.

    Raises:
        EvaluationError: a seed lacks an item, or there are no seeds.
    """
    return np.asarray(scores_by_seed(scores, items).mean(axis=0), dtype=np.float64)


def _check(items: Sequence[Item], values: Floats) -> None:
    if not items:
        raise EvaluationError("there are no items to average", field="items", next_step="evaluate a split that contains examples")
    if values.ndim not in (1, 2) or values.shape[-1] != len(items) or not values.size:
        raise EvaluationError(
            "one value per item, or per seed and item, is needed",
            field="values",
            value=values.shape,
            allowed=f"({len(items)},) or (seeds, {len(items)})",
        )
    if not np.isfinite(values).all():
        raise EvaluationError("a value is not finite", field="values", value=float(values[~np.isfinite(values)][0]))
