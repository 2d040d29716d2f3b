"""A harness's scores beside ours, on the same responses."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from coat_core.corpus.examples import escape_surrogates
from coat_core.evaluation.benchmarks.logs.formats import OURS, Log, names
from coat_core.evaluation.benchmarks.logs.matching import WAYS, Matched, match_rows
from coat_core.evaluation.benchmarks.scoring import DEFAULT, BenchmarkResult, score_benchmark
from coat_core.evaluation.benchmarks.suite import LoadedSuite
from coat_core.evaluation.benchmarks.totals import ScoredItem
from coat_core.evaluation.scorers import Score
from coat_core.evaluation.statistics import Bootstrap

SHOWN = 20
"""Items on which a harness and we differ, that are printed; the JSON file has all."""
_TOLERANCE = 1e-9


@dataclass(frozen=True)
class Comparison:
    """Responses of a log, matched to items and scored again.

    Attributes:
        log: the file.
        matched: rows and items.
        result: our result.
    """

    log: Log
    matched: Matched
    result: BenchmarkResult

    @property
    def harness_scores(self) -> dict[str, float]:
        """Item id → score of the harness, where the log has one."""
        return {name: row.score for name, row in self.matched.rows.items() if row.score is not None}

    def differing(self) -> list[ScoredItem]:
        """Return the items to which the harness gave another score than our official or our strict reading."""
        scores = self.harness_scores
        return [row for row in self.result.rows if row.item.id in scores and _differs(row, scores[row.item.id])]


def rescore(log: Log, loaded: LoadedSuite, bootstrap: Bootstrap = DEFAULT) -> Comparison:
    """Match the rows of a log to the items of a benchmark, and score the responses under both readings."""
    matched = match_rows(log.rows, loaded.items)
    return Comparison(log, matched, score_benchmark(loaded, matched.given(), bootstrap))


def comparison_text(compared: Comparison) -> str:
    """Return what was matched and what was not, the harness's numbers beside ours, and the items on which they differ."""
    log, matched, result = compared.log, compared.matched, compared.result
    ways = ", ".join(f"{matched.ways[way]} by {way}" for way in WAYS if matched.ways[way]) or "none"
    lines = [f"{log.path.name}: {len(log.rows)} rows of {log.format.name} ({log.format.source})", f"matched: {ways}"]
    for count, what, listed in _problems(compared):
        lines.append(f"{count} {what}: {names(listed)}")
    if log.unused:
        lines.append("fields not used: " + ", ".join(f"{name} ({count} rows)" for name, count in log.unused.items()))
    scores = compared.harness_scores
    if scores:
        mean = math.fsum(scores.values()) / len(scores)
        ours = [row for row in result.rows if row.item.id in scores]
        counted = [row.comparable for row in ours if row.official.value is not None]
        official = f"{math.fsum(counted) / len(counted):.3f} over {len(counted)}" if counted else "none"
        strict = math.fsum(row.strict_value for row in ours) / len(ours)
        lines.append(f"on the {len(ours)} items that the harness scored: harness {mean:.3f}, official {official}, strict {strict:.3f}")
    elif log.format.name != OURS:
        lines.append("the rows have no scores of the harness")
    for name, value in log.format.summary(log.path).items():
        lines.append(f"  written by the harness: {name} {value:g}")
    differing = compared.differing()
    if differing:
        lines.append(f"the harness differs from us on {len(differing)} of {len(scores)} items:")
        lines += [f"  {_line(row, scores[row.item.id])}" for row in differing[:SHOWN]]
        lines += [f"  … {len(differing) - SHOWN} more in the file of --json"] * (len(differing) > SHOWN)
    return "\n".join(lines)


def comparison_json(compared: Comparison) -> dict[str, Any]:
    """Return the comparison as JSON, with all names and all items that differ."""
    log, matched = compared.log, compared.matched
    scores = compared.harness_scores
    return {
        "format": log.format.name,
        "source": log.format.source,
        "rows": len(log.rows),
        "matched": dict(matched.ways),
        "fields_not_used": dict(log.unused),
        **{what.replace(" ", "_"): listed for _, what, listed in _problems(compared, every=True)},
        "harness": {
            "value": math.fsum(scores.values()) / len(scores) if scores else None, "over": len(scores),
            "written_beside": dict(log.format.summary(log.path)),
        },
        "differing": [
            {"id": row.item.id, "harness": scores[row.item.id], "official": row.official.value, "strict": _strict(row)}
            for row in compared.differing()
        ],
    }  # fmt: skip


def _problems(compared: Comparison, *, every: bool = False) -> list[tuple[int, str, Sequence[str]]]:
    matched, items = compared.matched, compared.result.loaded.items
    found = {
        "rows of no item": matched.unmatched,
        "rows that fit several items": matched.ambiguous,
        "items repeated": matched.repeated,
        "items repeated with another response": matched.conflicting,
        "items with another question or answer": matched.other_text,
        "items without a response": matched.missing(items),
        "items of which the harness scored another text than the model's": [name for name, row in matched.rows.items() if row.filtered],
    }
    return [(len(listed), what, [escape_surrogates(name) for name in listed]) for what, listed in found.items() if listed or every]


def _differs(row: ScoredItem, score: float) -> bool:
    official = row.official.value is None or abs(row.comparable - score) > _TOLERANCE
    return official or abs(row.strict_value - score) > _TOLERANCE


def _strict(row: ScoredItem) -> float | None:
    return row.strict.value if isinstance(row.strict, Score) else None


def _line(row: ScoredItem, score: float) -> str:
    official = row.official.code if row.official.value is None else f"{row.official.value:g}"
    strict = f"{row.strict.value:g}" if isinstance(row.strict, Score) else "unscored"
    response = escape_surrogates(repr(row.given)[:60]) if isinstance(row.given, str) else "(none)"
    return f"{row.item.id}: harness {score:g}, official {official}, strict {strict}; {response}"
