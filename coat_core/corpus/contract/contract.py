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
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from coat_core.corpus.contract.expectations import Expectation, balance_expectation, row_expectations
from coat_core.corpus.contract.table import Row, facts_table, measure_files, read_examples
from coat_core.corpus.examples import SPLITS, Example
from coat_core.errors import ContractError
from coat_core.settings import ContractSettings
from coat_core.storage import read_jsonl, write_json, write_jsonl, write_text

MANIFEST = "manifest.jsonl"
_SHOWN = 5


@dataclass(frozen=True)
class ExpectationResult:
    """Result of one expectation."""

    name: str
    expects: str
    checked: int
    failed: int
    first: tuple[dict[str, str], ...]
    """Id and reason of the first invalid rows."""


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
    """Number of accepted rows by split and family."""
    audio: dict[str, float]
    """Number of files, seconds of audio and wall time of the stage in seconds."""
    limits: dict[str, float]

    def to_json(self) -> dict[str, Any]:
        """Return the result as a JSON object."""
        return asdict(self)

    def failure_message(self) -> str:
        """Return why the contract is not met: the expectations that are not met and their first rows."""
        lines = list(self.table_failures)
        for result in sorted(self.expectations, key=lambda r: -r.failed):
            if result.failed and result.name != self.expectations[-1].name:
                rows = "; ".join(f"{row['id']}: {row['reason']}" for row in result.first[:3])
                lines.append(f"{result.name} ({result.failed} of {result.checked}): {rows}")
        share = f"{self.quarantined} of {self.rows} rows are invalid ({self.bad_share:.2%}, allowed {self.max_bad_share:.2%})"
        return "\n  ".join([share, *lines])


def check_corpus(
    corpus: Path, settings: ContractSettings, *, accepted: Path, quarantine: Path, records: Path, workers: int = 1
) -> ContractResult:
    """Check `corpus/manifest.jsonl`; write the accepted rows, the quarantined rows with reasons, and the records.

    Args:
        corpus: folder with the manifest and the audio.
        settings: limits.
        accepted: manifest of the accepted rows, the input of later stages. It is not written if the contract is not met.
        quarantine: rows `{"id", "row", "reasons"}`.
        records: folder for `results.json` and `contract.html`.
        workers: number of processes that measure audio.

    Raises:
        ContractError: the contract is not met. Records and quarantine are written first.
        CoatError: the manifest is missing or is not JSON Lines.
    """
    began = time.monotonic()
    # Later stages must not use the rows of an earlier check if this one fails.
    accepted.unlink(missing_ok=True)
    rows = read_jsonl(corpus / MANIFEST)
    if not rows:
        raise ContractError(
            "the manifest has no rows", field="manifest", value=str(corpus / MANIFEST), next_step="run the corpus stage again"
        )
    examples = read_examples(rows)
    facts = measure_files(corpus, examples, settings.max_duration_s, workers)
    table = facts_table(rows, examples, corpus, facts)
    expectations = row_expectations(settings)
    failed = _validate(expectations, table)
    results = tuple(_result(expectation, failed[expectation.name], table) for expectation in expectations)
    reasons: dict[int, list[str]] = {}
    for expectation in expectations:
        for number in failed[expectation.name]:
            reason = expectation.format_reason(table[number][expectation.column])
            reasons.setdefault(number, []).append(f"{expectation.name}: {reason}")
    valid = [example for number, example in enumerate(examples) if number not in reasons and isinstance(example, Example)]
    counts: dict[str, dict[str, int]] = {
        split: dict(sorted(Counter[str](e.family for e in valid if e.split == split).items())) for split in SPLITS
    }
    families, failures = _check_balance(counts, settings)
    bad_share = len(reasons) / len(rows)
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
        audio={
            "files": len(facts),
            "seconds": round(sum(f.duration_s or 0.0 for f in facts.values()), 1),
            "stage_seconds": round(time.monotonic() - began, 1),
        },
        limits=settings.model_dump(mode="json"),
    )
    write_jsonl(quarantine, ({"id": table[n]["id"], "row": _strict_json(rows[n]), "reasons": reasons[n]} for n in sorted(reasons)))
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
        {"id": str(table[number]["id"]), "reason": expectation.format_reason(table[number][expectation.column])}
        for number in failed[:_SHOWN]
    )
    checked = sum(row[expectation.checked_column or expectation.column] is not None for row in table)
    return ExpectationResult(expectation.name, expectation.expects, checked, len(failed), first)


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
    first = tuple({"id": split, "reason": reason} for split, reason in zip(splits, reasons, strict=True))
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
    """Return a value as strict JSON: NaN and infinities become strings."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {key: _strict_json(item) for key, item in value.items()}
    return [_strict_json(item) for item in value] if isinstance(value, list) else value


def _render_page(result: ContractResult) -> str:
    """Return the result as an HTML page that loads nothing from other files."""
    environment = Environment(loader=PackageLoader(__package__, "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    families = sorted({family for found in result.counts.values() for family in found})
    return environment.get_template("page.html.j2").render(result=result.to_json(), families=families)
