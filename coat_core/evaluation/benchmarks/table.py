"""The result of a benchmark as text."""

from __future__ import annotations

from coat_core.evaluation.benchmarks.recorded import places_text
from coat_core.evaluation.benchmarks.scoring import BenchmarkResult
from coat_core.evaluation.benchmarks.totals import OfficialTotal

_HEAD = ("part", "official", "over", "strict", "95 % interval", "unscored", "n", "differ")


def table_text(result: BenchmarkResult, fields: tuple[str, ...] | None = None) -> str:
    """Return a table of both readings, a row for the split and one for each part, and notes on what the numbers mean.

    Args:
        result: the scored split.
        fields: the group fields to show; default: the first of the suite.
    """
    suite, loaded = result.loaded.suite, result.loaded
    rows = [_HEAD, _row(f"{suite.title}, {loaded.split}", result)]
    for field in suite.groups[:1] if fields is None else fields:
        rows += [_row(f"  {field} {value}", part) for value, part in result.parts(field).items()]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEAD))]
    lines = [
        "  ".join(cell.ljust(w) if not i else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))) for row in rows
    ]
    return "\n".join([*(line.rstrip() for line in lines), "", *notes(result)])


def notes(result: BenchmarkResult) -> list[str]:
    """Return what the numbers mean: rule, denominators, what is left out, where the readings differ, which data."""
    suite, official, strict = result.loaded.suite, result.official, result.strict
    lines = [f"official: {suite.metric}; {suite.rule_name}", f"  denominator: {suite.denominator}"]
    if official.reason:
        lines.append(f"  no number: {official.reason}")
    if official.left_out:
        lines.append("  left out: " + ", ".join(f"{count} {code}" for code, count in official.left_out.items()))
    places = places_text(official.further)
    lines += (
        [f"  {places}"]
        if places
        else [f"  {name}: {_short(value)}" for name, value in official.further.items() if not isinstance(value, dict)]
    )
    lines.append(
        f"strict: {suite.strict_name}; {strict.unscored} of {len(result.rows)} unscored, {strict.unscorable} could not be answered"
    )
    if result.differing:
        lines.append("the readings differ: " + ", ".join(f"{count} {kind}" for kind, count in result.differing.items()))
    lines += [f"{name}: {_value(other)} over {other.over}" for name, other in result.harnesses().items()]
    version = result.loaded.version
    known = {True: "the published file", False: "NOT the published file", None: "published MD5 not known"}[version.published]
    return [*lines, f"data: MD5 {version.md5} ({known})"]


def _row(name: str, result: BenchmarkResult) -> tuple[str, ...]:
    official, strict = result.official, result.strict
    interval = result.interval()
    bounds = "too few" if interval.n < 20 else f"{interval.low:.3f} to {interval.high:.3f}"
    return (
        name, _value(official), str(official.over), f"{interval.value:.3f}", bounds, str(strict.unscored), str(len(result.rows)),
        f"{100 * result.differing_share:.1f} %",
    )  # fmt: skip


def _value(official: OfficialTotal) -> str:
    return "none" if official.value is None else f"{official.value:.3f}"


def _short(value: object) -> str:
    return f"{value:.4f}" if isinstance(value, float) else str(value)
