"""The data contract: what every row of a corpus must hold before anything is trained on it, checked with Great Expectations.

Audio is measured first; Great Expectations sees a table of facts. Rows that break an expectation are set aside with the
reasons; when too many do, or the corpus as a whole is out of balance, the stage fails after its results are written.
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

from coat_core.corpus.contract.checks import Check, balance, expectations
from coat_core.corpus.contract.page import contract_page
from coat_core.corpus.contract.table import Row, facts_table, measure_files, read_examples
from coat_core.corpus.examples import SPLITS, Example
from coat_core.errors import ContractError
from coat_core.settings import ContractSettings
from coat_core.storage import read_jsonl, write_json, write_jsonl, write_text

MANIFEST = "manifest.jsonl"
_SHOWN = 5


@dataclass(frozen=True)
class ExpectationResult:
    """How one expectation went."""

    name: str
    expects: str
    checked: int
    failed: int
    first: tuple[dict[str, str], ...]
    """The first bad rows: id and reason."""


@dataclass(frozen=True)
class ContractResult:
    """What the contract found; `to_json` is `results.json`."""

    passed: bool
    rows: int
    accepted: int
    quarantined: int
    bad_share: float
    max_bad_share: float
    expectations: tuple[ExpectationResult, ...]
    table_failures: tuple[str, ...]
    """What is wrong with the corpus as a whole."""
    counts: dict[str, dict[str, int]]
    """Accepted rows by split and family."""
    audio: dict[str, float]
    """Files and seconds measured, and how long the stage took."""
    limits: dict[str, float]

    def to_json(self) -> dict[str, Any]:
        """Return the result as plain JSON."""
        return asdict(self)

    def complaint(self) -> str:
        """Return why the contract failed: the broken expectations and their first rows."""
        lines = list(self.table_failures)
        for result in sorted(self.expectations, key=lambda r: -r.failed):
            if result.failed and result.name != self.expectations[-1].name:
                rows = "; ".join(f"{row['id']}: {row['reason']}" for row in result.first[:3])
                lines.append(f"{result.name} ({result.failed} of {result.checked}): {rows}")
        share = f"{self.quarantined} of {self.rows} rows are bad ({self.bad_share:.2%}, allowed {self.max_bad_share:.2%})"
        return "\n  ".join([share, *lines])


def check_corpus(
    corpus: Path, settings: ContractSettings, *, accepted: Path, quarantine: Path, records: Path, workers: int = 1
) -> ContractResult:
    """Check `corpus/manifest.jsonl`; write the accepted rows, the quarantined rows with reasons, and the records.

    Args:
        corpus: folder with the manifest and the audio.
        settings: limits.
        accepted: the manifest that everything after depends on; absent when the contract fails.
        quarantine: rows `{"id", "row", "reasons"}`.
        records: folder for `results.json` and `contract.html`.
        workers: processes that measure audio.

    Raises:
        ContractError: too many rows are bad, or the corpus is out of balance. Results and quarantine are written before.
        CoatError: the manifest is missing or is not JSON Lines.
    """
    began = time.monotonic()
    # Whatever happens from here on, nothing may run on the rows of an earlier check.
    accepted.unlink(missing_ok=True)
    rows = read_jsonl(corpus / MANIFEST)
    if not rows:
        raise ContractError(
            "the manifest has no rows", field="manifest", value=str(corpus / MANIFEST), next_step="run the corpus stage again"
        )
    examples = read_examples(rows)
    facts = measure_files(corpus, examples, settings.max_duration_s, workers)
    table = facts_table(rows, examples, corpus, facts)
    checks = expectations(settings)
    broken = _validate(checks, table)
    results = tuple(_outcome(check, broken[check.name], table) for check in checks)
    reasons: dict[int, list[str]] = {}
    for check in checks:
        for number in broken[check.name]:
            reasons.setdefault(number, []).append(f"{check.name}: {check.tell(table[number][check.column])}")
    good = [example for number, example in enumerate(examples) if number not in reasons and isinstance(example, Example)]
    counts: dict[str, dict[str, int]] = {
        split: dict(sorted(Counter[str](e.family for e in good if e.split == split).items())) for split in SPLITS
    }
    families, complaints = _balance(counts, settings)
    bad_share = len(reasons) / len(rows)
    result = ContractResult(
        passed=bad_share <= settings.max_bad_share and not complaints,
        rows=len(rows),
        accepted=len(good),
        quarantined=len(reasons),
        bad_share=bad_share,
        max_bad_share=settings.max_bad_share,
        expectations=(*results, families),
        table_failures=complaints,
        counts=counts,
        audio={
            "files": len(facts),
            "seconds": round(sum(f.duration_s or 0.0 for f in facts.values()), 1),
            "stage_seconds": round(time.monotonic() - began, 1),
        },
        limits=settings.model_dump(mode="json"),
    )
    write_jsonl(quarantine, ({"id": table[n]["id"], "row": _finite(rows[n]), "reasons": reasons[n]} for n in sorted(reasons)))
    write_json(records / "results.json", result.to_json())
    write_text(records / "contract.html", contract_page(result.to_json()))
    if not result.passed:
        raise ContractError(
            f"the corpus breaks the data contract: {result.complaint()}\n",
            next_step=f"see {records / 'contract.html'} and {quarantine}, mend the data, run again",
        )
    write_jsonl(accepted, (example.to_row() for example in good))
    return result


def _outcome(check: Check, bad: Sequence[int], table: Sequence[Row]) -> ExpectationResult:
    first = tuple({"id": str(table[number]["id"]), "reason": check.tell(table[number][check.column])} for number in bad[:_SHOWN])
    checked = sum(row[check.given or check.column] is not None for row in table)
    return ExpectationResult(check.name, check.expects, checked, len(bad), first)


def _balance(counts: Mapping[str, Mapping[str, int]], settings: ContractSettings) -> tuple[ExpectationResult, tuple[str, ...]]:
    """Compare the families within each split that has rows; a family that only this split lacks counts as none."""
    check = balance(settings)
    names = sorted({family for split in counts.values() for family in split})
    table: list[Row] = []
    for split, found in counts.items():
        sizes = [found.get(family, 0) for family in names]
        if found:
            table.append({"row": len(table), "id": split, check.column: max(sizes) / min(sizes) if min(sizes) else math.inf})
    bad = _validate([check], table)[check.name] if table else []
    splits = [table[number]["id"] for number in bad]
    reasons = [f"{check.tell(table[number][check.column])}: {dict(counts[split])}" for number, split in zip(bad, splits, strict=True)]
    first = tuple({"id": split, "reason": reason} for split, reason in zip(splits, reasons, strict=True))
    complaints = tuple(f"{check.name} in {row['id']}: {row['reason']}" for row in first) if table else ("no row is left",)
    return ExpectationResult(check.name, check.expects, len(table), len(bad), first), complaints


def _validate(checks: Sequence[Check], table: Sequence[Row]) -> dict[str, list[int]]:
    """Return the row numbers that break each expectation, by Great Expectations.

    Raises:
        ContractError: an expectation could not be computed.
    """
    os.environ["GX_ANALYTICS_ENABLED"] = "false"
    with warnings.catch_warnings():
        # Its import is the only thing here that warns (deprecated modules of the standard library).
        warnings.simplefilter("ignore", DeprecationWarning)
        import great_expectations as gx
    import pandas as pd

    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False}
    asset = context.data_sources.add_pandas("facts").add_dataframe_asset("rows")
    batch = asset.add_batch_definition_whole_dataframe("all").get_batch({"dataframe": pd.DataFrame(list(table))})
    suite = gx.ExpectationSuite(name="contract", expectations=[_expectation(gx.expectations, check) for check in checks])
    outcome = batch.validate(suite, result_format={"result_format": "COMPLETE", "unexpected_index_column_names": ["row"]})
    by_name = {result.expectation_config.meta["check"]: result for result in outcome.results}
    broken: dict[str, list[int]] = {}
    for check in checks:
        result = by_name[check.name]
        if result.exception_info.get("raised_exception", True):
            raise ContractError(f"the expectation {check.name} could not be computed: {result.exception_info}")
        broken[check.name] = sorted(int(index["row"]) for index in result.result.get("unexpected_index_list") or ())
    return broken


def _expectation(library: Any, check: Check) -> Any:
    meta = {"check": check.name}
    if check.kind == "null":
        return library.ExpectColumnValuesToBeNull(column=check.column, meta=meta)
    if check.kind == "true":
        return library.ExpectColumnValuesToBeInSet(column=check.column, value_set=[True], meta=meta)
    return library.ExpectColumnValuesToBeBetween(column=check.column, min_value=check.low, max_value=check.high, meta=meta)


def _finite(value: Any) -> Any:
    """Return a row as strict JSON: NaN and infinities become text."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, list) else value
