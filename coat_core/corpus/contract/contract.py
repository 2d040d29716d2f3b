"""The data contract: expectations that every row of a corpus must meet before training, checked with Great Expectations.

Audio is measured first; Great Expectations checks a table of the measured facts. Rows that do not meet an expectation are
quarantined with the reasons. If too many rows are invalid or the families are not balanced, the stage fails after its results are
written.
"""

from __future__ import annotations

import math
import os
import time
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence, Set
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from coat_core.corpus.contract.expectations import Expectation, balance_expectation, row_expectations
from coat_core.corpus.contract.manifest import read_rows
from coat_core.corpus.contract.table import Row, facts_table, measure_files, read_examples
from coat_core.corpus.examples import SPLITS, Example, escape_surrogates
from coat_core.errors import ContractError
from coat_core.settings import ContractSettings
from coat_core.storage import write_json, write_jsonl, write_text

MANIFEST = "manifest.jsonl"
_SHOWN = 20
"""Invalid rows that the error message shows, over all expectations, and that the records show of each expectation."""
_COUNTED = ("family", "split", "source")


@dataclass(frozen=True)
class ExpectationResult:
    """Result of one expectation."""

    name: str
    expects: str
    checked: int
    failed: int
    first: tuple[dict[str, Any], ...]
    """Id, line and reason of the first invalid rows."""


@dataclass(frozen=True)
class ContractResult:
    """Result of the contract; `to_json` returns the content of `results.json`."""

    passed: bool
    rows: int
    accepted: int
    quarantined: int
    bad_share: float
    max_bad_share: float
    expectations: tuple[ExpectationResult, ...]
    table_failures: tuple[str, ...]
    """Failures of the corpus as a whole."""
    counts: dict[str, dict[str, int]]
    """Number of accepted labelled rows by split and family."""
    unlabelled: dict[str, dict[str, int]]
    """Number of accepted unlabelled rows by split and family; only the split `train` can have some."""
    read: dict[str, dict[str, dict[str, int]]]
    """By field (family, split, source) and value: the number of rows that were read, accepted and set aside."""
    audio: dict[str, float]
    """Number of files, seconds of audio and wall time of the stage in seconds."""
    limits: dict[str, float]

    def to_json(self) -> dict[str, Any]:
        """Return the result as a JSON object."""
        return asdict(self)

    def failure_message(self) -> str:
        """Return why the contract is not met: the expectations that are not met and their first rows, at most 20 rows in all."""
        lines = list(self.table_failures)
        failed = sorted((r for r in self.expectations[:-1] if r.failed), key=lambda r: -r.failed)
        for result in failed:
            rows = result.first[: max(1, _SHOWN // len(failed))]
            more = f"; and {result.failed - len(rows)} more" if result.failed > len(rows) else ""
            shown = "; ".join(f"{row['id']} (line {row['line']}): {row['reason']}" for row in rows)
            lines.append(f"{result.name} ({result.failed} of {result.checked}): {shown}{more}")
        bad = round(self.bad_share * self.rows)
        share = f"{bad} of {self.rows} rows are invalid ({self.bad_share:.2%}, allowed {self.max_bad_share:.2%})"
        return "\n  ".join([share, *lines])

    def summary(self) -> str:
        """Return one line: how many rows of each family, split and source were read, and how many were set aside, with the reasons."""
        fields = (f"{field} {_listed({k: v['read'] for k, v in values.items()})}" for field, values in self.read.items())
        reasons = _listed({r.name: r.failed for r in self.expectations[:-1] if r.failed})
        aside = f"set aside: {self.quarantined}" + (f" ({reasons})" if reasons else "")
        unlabelled = "".join(f"; unlabelled (distillation only): {_listed(counts)}" for counts in self.unlabelled.values() if counts)
        return f"contract: {self.rows} rows read; {'; '.join(fields)}; {aside}{unlabelled}"


def check_corpus(
    corpus: Path, settings: ContractSettings, *, accepted: Path, quarantine: Path, records: Path, workers: int = 1
) -> ContractResult:
    """Check `corpus/manifest.jsonl`; write the accepted rows, the quarantined rows with reasons, and the records.

    Args:
        corpus: folder with the manifest and the audio.
        settings: limits.
        accepted: manifest of the accepted rows, the input of later stages. It is not written if the contract is not met.
        quarantine: rows `{"id", "line", "row", "reasons"}`. What JSON or UTF-8 cannot contain (NaN, a lone surrogate) is written as text.
        records: folder for `results.json` and `contract.html`.
        workers: number of processes that measure audio.

    Raises:
        ContractError: the contract is not met (records and quarantine are written first), or the manifest is not JSON Lines in UTF-8.
    """
    began = time.monotonic()
    # Later stages must not use the rows of an earlier check if this one fails.
    accepted.unlink(missing_ok=True)
    numbered = read_rows(corpus / MANIFEST)
    lines, rows = list(numbered), list(numbered.values())
    examples = read_examples(numbered)
    facts = measure_files(corpus, examples, settings.max_duration_s, workers)
    table = facts_table(numbered, examples, corpus, facts)
    expectations = row_expectations(settings)
    failed = _validate(expectations, table)
    results = tuple(_result(expectation, failed[expectation.name], table) for expectation in expectations)
    reasons: dict[int, list[str]] = {}
    for expectation in expectations:
        for number in failed[expectation.name]:
            reason = expectation.format_reason(table[number][expectation.column])
            reasons.setdefault(number, []).append(f"{expectation.name}: {reason}")
    valid = [example for number, example in enumerate(examples) if number not in reasons and isinstance(example, Example)]
    counts, unlabelled = _family_counts([e for e in valid if e.labelled]), _family_counts([e for e in valid if not e.labelled])
    families, failures = _check_balance(counts, settings)
    if unlabelled["train"] and not counts["train"]:
        found = failures if any(counts.values()) else ()
        failures = (*found, "no accepted row of the split train has an answer: distillation alone trains no answer")
    bad = {number for expectation in expectations if expectation.defect for number in failed[expectation.name]}
    bad_share = len(bad) / len(rows)
    result = ContractResult(
        passed=bad_share <= settings.max_bad_share and not failures,
        rows=len(rows),
        accepted=len(valid),
        quarantined=len(reasons),
        bad_share=bad_share,
        max_bad_share=settings.max_bad_share,
        expectations=(*results, families),
        table_failures=failures,
        counts=counts,
        unlabelled=unlabelled,
        read=_read_counts(rows, set(reasons)),
        audio={
            "files": len(facts),
            "seconds": round(sum(f.duration_s or 0.0 for f in facts.values()), 1),
            "stage_seconds": round(time.monotonic() - began, 1),
        },
        limits=settings.model_dump(mode="json"),
    )
    write_jsonl(
        quarantine,
        ({"id": table[n]["id"], "line": lines[n], "row": _strict_json(rows[n]), "reasons": reasons[n]} for n in sorted(reasons)),
    )
    write_json(records / "results.json", result.to_json())
    write_text(records / "contract.html", _render_page(result))
    if not result.passed:
        raise ContractError(
            f"the data contract is not met: {result.failure_message()}\n",
            next_step=f"see {records / 'contract.html'} and {quarantine}, fix the data, run again",
        )
    write_jsonl(accepted, (example.to_row() for example in valid))
    return result


def _result(expectation: Expectation, failed: Sequence[int], table: Sequence[Row]) -> ExpectationResult:
    first = tuple(
        {
            "id": str(table[number]["id"]),
            "line": table[number]["line"],
            "reason": expectation.format_reason(table[number][expectation.column]),
        }
        for number in failed[:_SHOWN]
    )
    checked = sum(row[expectation.checked_column or expectation.column] is not None for row in table)
    return ExpectationResult(expectation.name, expectation.expects, checked, len(failed), first)


def _family_counts(examples: Sequence[Example]) -> dict[str, dict[str, int]]:
    """Return the number of examples by split and family."""
    return {split: dict(sorted(Counter[str](e.family for e in examples if e.split == split).items())) for split in SPLITS}


def _read_counts(rows: Sequence[Row], invalid: Set[int]) -> dict[str, dict[str, dict[str, int]]]:
    """Return by field and value the number of rows that were read, accepted and set aside. Values that are not text are one value."""
    counts: dict[str, dict[str, dict[str, int]]] = {}
    for field in _COUNTED:
        found: dict[str, dict[str, int]] = {}
        for number, row in enumerate(rows):
            name = row.get(field)
            entry = found.setdefault(
                escape_surrogates(name) if isinstance(name, str) else "(not text)", {"read": 0, "accepted": 0, "set_aside": 0}
            )
            entry["read"] += 1
            entry["set_aside" if number in invalid else "accepted"] += 1
        counts[field] = dict(sorted(found.items()))
    return counts


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items())


def _check_balance(counts: Mapping[str, Mapping[str, int]], settings: ContractSettings) -> tuple[ExpectationResult, tuple[str, ...]]:
    """Compare the family counts within each split that has rows. A family that occurs only in other splits has a count of 0."""
    expectation = balance_expectation(settings)
    names = sorted({family for split in counts.values() for family in split})
    table: list[Row] = []
    for split, found in counts.items():
        sizes = [found.get(family, 0) for family in names]
        if found:
            table.append({"row": len(table), "id": split, expectation.column: max(sizes) / min(sizes) if min(sizes) else math.inf})
    failed = _validate([expectation], table)[expectation.name] if table else []
    splits = [table[number]["id"] for number in failed]
    reasons = [
        f"{expectation.format_reason(table[number][expectation.column])}: {dict(counts[split])}"
        for number, split in zip(failed, splits, strict=True)
    ]
    first = tuple({"id": split, "line": None, "reason": reason} for split, reason in zip(splits, reasons, strict=True))
    failures = tuple(f"{expectation.name} in {row['id']}: {row['reason']}" for row in first) if table else ("no row is valid",)
    return ExpectationResult(expectation.name, expectation.expects, len(table), len(failed), first), failures


def _validate(expectations: Sequence[Expectation], table: Sequence[Row]) -> dict[str, list[int]]:
    """Return the numbers of the rows that do not meet each expectation, computed by Great Expectations.

    Raises:
        ContractError: an expectation could not be computed.
    """
    os.environ["GX_ANALYTICS_ENABLED"] = "false"
    with warnings.catch_warnings():
        # The import warns about deprecated modules of the standard library.
        warnings.simplefilter("ignore", DeprecationWarning)
        import great_expectations as gx
    import pandas as pd

    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False}
    asset = context.data_sources.add_pandas("facts").add_dataframe_asset("rows")
    batch = asset.add_batch_definition_whole_dataframe("all").get_batch({"dataframe": pd.DataFrame(list(table))})
    suite = gx.ExpectationSuite(
        name="contract", expectations=[_gx_expectation(gx.expectations, expectation) for expectation in expectations]
    )
    outcome = batch.validate(suite, result_format={"result_format": "COMPLETE", "unexpected_index_column_names": ["row"]})
    by_name = {result.expectation_config.meta["name"]: result for result in outcome.results}
    failed: dict[str, list[int]] = {}
    for expectation in expectations:
        result = by_name[expectation.name]
        if result.exception_info.get("raised_exception", True):
            raise ContractError(f"the expectation {expectation.name} could not be computed: {result.exception_info}")
        failed[expectation.name] = sorted(int(index["row"]) for index in result.result.get("unexpected_index_list") or ())
    return failed


def _gx_expectation(library: Any, expectation: Expectation) -> Any:
    meta = {"name": expectation.name}
    if expectation.kind == "null":
        return library.ExpectColumnValuesToBeNull(column=expectation.column, meta=meta)
    if expectation.kind == "true":
        return library.ExpectColumnValuesToBeInSet(column=expectation.column, value_set=[True], meta=meta)
    return library.ExpectColumnValuesToBeBetween(
        column=expectation.column, min_value=expectation.low, max_value=expectation.high, meta=meta
    )


def _strict_json(value: Any) -> Any:
    """Return a value as strict JSON in UTF-8: NaN and infinities become strings, lone surrogates escape sequences."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, str):
        return escape_surrogates(value)
    if isinstance(value, Mapping):
        return {escape_surrogates(key): _strict_json(item) for key, item in value.items()}
    return [_strict_json(item) for item in value] if isinstance(value, list) else value


def _render_page(result: ContractResult) -> str:
    """Return the result as an HTML page that loads nothing from other files."""
    environment = Environment(loader=PackageLoader(__package__, "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    families = sorted({family for counts in (result.counts, result.unlabelled) for found in counts.values() for family in found})
    return environment.get_template("page.html.j2").render(result=result.to_json(), families=families)
