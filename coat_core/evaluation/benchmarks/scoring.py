"""Score responses made elsewhere under both readings."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from coat_core.corpus.examples import escape_surrogates
from coat_core.errors import EvaluationError
from coat_core.evaluation.benchmarks.items import MISSING, Given
from coat_core.evaluation.benchmarks.strict import scorable
from coat_core.evaluation.benchmarks.suite import LoadedSuite
from coat_core.evaluation.benchmarks.totals import OfficialTotal, ScoredItem, mean_of
from coat_core.evaluation.scorers import Score
from coat_core.evaluation.statistics import Bootstrap, Interval, Item
from coat_core.storage import read_jsonl

DEFAULT = Bootstrap()
"""The bootstrap of intervals where no params name another."""


@dataclass(frozen=True)
class StrictTotal:
    """Our number: a mean over all items, unscored ones as 0.

    Attributes:
        value: the mean.
        unscored: number of items without a readable answer.
        unscorable: number of those that no response could answer, e.g. because the answer is twice among the options.
    """

    value: float
    unscored: int
    unscorable: int


@dataclass(frozen=True)
class BenchmarkResult:
    """A split under both readings; `groups`: field → value → the two totals of that part."""

    loaded: LoadedSuite
    rows: tuple[ScoredItem, ...]
    official: OfficialTotal
    strict: StrictTotal
    bootstrap: Bootstrap

    @property
    def differing(self) -> dict[str, int]:
        """Number of items by how the readings differ; "none" where the script gives no value."""
        kinds = Counter(_difference(row) for row in self.rows)
        return {kind: kinds[kind] for kind in ("official higher", "strict higher", "no official value") if kinds[kind]}

    @property
    def differing_share(self) -> float:
        """Share of the items on which the readings differ."""
        return sum(row.differs for row in self.rows) / len(self.rows)

    def interval(self) -> Interval:
        """Return our mean with its bootstrap interval over items."""
        name = self.loaded.suite.name
        units = [Item(row.item.id, name, row.item.id) for row in self.rows]
        return self.bootstrap.by_family(units, np.asarray([row.strict_value for row in self.rows]))[name]

    def harnesses(self) -> dict[str, OfficialTotal]:
        """Return the totals under the rules of other harnesses."""
        return {name: mean_of(self.rows, lambda row, name=name: row.harnesses[name]) for name in self.loaded.suite.harnesses}  # type: ignore[misc]

    def parts(self, field: str) -> dict[str, BenchmarkResult]:
        """Return the result of each value of a group field, in order of the name."""
        values = sorted({row.item.groups.get(field, "") for row in self.rows})
        return {
            value: total(self.loaded, [row for row in self.rows if row.item.groups.get(field, "") == value], self.bootstrap)
            for value in values
        }


def read_given(path: Path) -> dict[str, Given]:
    """Read responses made elsewhere: JSON Lines of `{"id": …, "response": text or null}`.

    Returns:
        Id → response. Rows without the key `response` and items without a row are missing.

    Raises:
        EvaluationError: a row has no id, an id occurs twice, or a response is neither text nor null.
    """
    given: dict[str, Given] = {}
    for number, row in enumerate(read_jsonl(path), 1):
        if "id" not in row:
            raise EvaluationError(
                f"line {number} has no id", field="responses", value=str(path), next_step='write {"id": …, "response": …}'
            )
        name, response = str(row["id"]), row.get("response", MISSING)
        if name in given:
            raise EvaluationError(f"line {number} repeats an id", field="id", value=name, next_step="keep one response an item")
        if not isinstance(response, str | None) and response is not MISSING:
            raise EvaluationError(
                f"line {number} has no text", field="response", value=response, allowed="text or null", next_step="fix the row"
            )
        given[name] = response
    return given


def score_benchmark(loaded: LoadedSuite, given: Mapping[str, Given], bootstrap: Bootstrap = DEFAULT) -> BenchmarkResult:
    """Score the responses to a split under both readings.

    Args:
        loaded: items and rule.
        given: id → response; an item without one is missing.
        bootstrap: of the intervals.

    Raises:
        EvaluationError: a response has the id of no item.
    """
    unknown = sorted(given.keys() - {item.id for item in loaded.items})
    if unknown:
        raise EvaluationError(
            f"{len(unknown)} responses belong to no item of {loaded.suite.title} ({loaded.split})", field="id", value=unknown[:3],
            next_step="check the split, and that the ids are those of the published files",
        )  # fmt: skip
    suite, rows = loaded.suite, []
    for item in loaded.items:
        response = given.get(item.id, MISSING)
        others = {name: rule(item, response) for name, rule in suite.harnesses.items()}
        rows.append(ScoredItem(item, response, loaded.rule(item, response), suite.strict(item, response), others))
    return total(loaded, rows, bootstrap)


def total(loaded: LoadedSuite, rows: Sequence[ScoredItem], bootstrap: Bootstrap = DEFAULT) -> BenchmarkResult:
    """Return both totals of scored items; the order of the items changes nothing."""
    rows = sorted(rows, key=lambda row: row.item.id)
    unscored = [row for row in rows if not isinstance(row.strict, Score)]
    mean = math.fsum(row.strict_value for row in rows) / len(rows)
    strict = StrictTotal(mean, len(unscored), sum(not scorable(row.item) for row in unscored))
    return BenchmarkResult(loaded, tuple(rows), loaded.suite.total(rows), strict, bootstrap)


def to_json(result: BenchmarkResult) -> dict[str, Any]:
    """Return totals, groups and items of a result as JSON."""
    loaded, suite = result.loaded, result.loaded.suite
    return {
        "benchmark": suite.name,
        "title": suite.title,
        "split": loaded.split,
        "data": {"md5": loaded.version.md5, "published": loaded.version.published},
        "rule": suite.rule_name,
        "metric": suite.metric,
        "prompt_source": suite.prompt_source,
        **_totals_json(result),
        "harnesses": {name: _official_json(official) for name, official in result.harnesses().items()},
        "groups": {
            field: {value: _totals_json(part) for value, part in result.parts(field).items()} for field in suite.groups
        },
        "items": [{"id": row.item.id, "prompt": escape_surrogates(suite.prompt(row.item)), **_item_json(row)} for row in result.rows],
    }  # fmt: skip


def _totals_json(result: BenchmarkResult) -> dict[str, Any]:
    return {
        "n": len(result.rows),
        "official": _official_json(result.official),
        "strict": {
            **result.interval().to_json(),
            "measure": result.loaded.suite.strict_name,
            "unscored": result.strict.unscored,
            "unscorable": result.strict.unscorable,
        },
        "differing": {"share": round(result.differing_share, 6), **result.differing},
    }


def _official_json(official: OfficialTotal) -> dict[str, Any]:
    value = None if official.value is None else round(official.value, 6)
    reason = {"reason": official.reason} if official.reason else {}
    return {"value": value, "over": official.over, "left_out": dict(official.left_out), **reason, **official.further}


def _item_json(row: ScoredItem) -> dict[str, Any]:
    strict = {"value": row.strict.value} if isinstance(row.strict, Score) else {"value": None, "reason": row.strict.reason}
    official = {"value": row.official.value, "code": row.official.code, **({"note": row.official.note} if row.official.note else {})}
    return {"response": escape_surrogates(row.given) if isinstance(row.given, str) else None, "official": official, "strict": strict}


def _difference(row: ScoredItem) -> str:
    if not row.differs:
        return "same"
    if row.official.value is None:
        return "no official value"
    return "official higher" if row.comparable > row.strict_value else "strict higher"
