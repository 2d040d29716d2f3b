"""The data contract: expectations that every row of a corpus must meet before training, checked with Great Expectations.

Audio is measured first; Great Expectations checks a table of the measured facts. Rows that do not meet an expectation are
quarantined with the reasons. If too many rows are invalid or the families are not balanced, the stage fails after its results are
written.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from coat_core.corpus.contract.expectations import Expectation, balance_expectation, row_expectations
from coat_core.corpus.contract.manifest import iterate_rows
from coat_core.corpus.contract.table import InvalidRow, Row, Rows, facts_table, measure_files, read_examples
from coat_core.corpus.contract.validation import Outcome, check_rows
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
    rows = read_examples(iterate_rows(corpus / MANIFEST))
    facts = measure_files(corpus, rows.examples, settings.max_duration_s, workers)
    expectations = row_expectations(settings)
    outcomes = check_rows(expectations, facts_table(rows, corpus, facts))
    reasons: dict[int, list[str]] = {}
    for name, outcome in outcomes.items():
        for failure in outcome.failed:
            reasons.setdefault(failure.number, []).append(f"{name}: {failure.reason}")
    valid = [example for number, example in enumerate(rows.examples) if number not in reasons and isinstance(example, Example)]
    counts, unlabelled = _family_counts([e for e in valid if e.labelled]), _family_counts([e for e in valid if not e.labelled])
    families, failures = _check_balance(counts, settings)
    if unlabelled["train"] and not counts["train"]:
        found = failures if any(counts.values()) else ()
        failures = (*found, "no accepted row of the split train has an answer: distillation alone trains no answer")
    bad = {failure.number for expectation in expectations if expectation.defect for failure in outcomes[expectation.name].failed}
    bad_share = len(bad) / len(rows.lines)
    result = ContractResult(
        passed=bad_share <= settings.max_bad_share and not failures,
        rows=len(rows.lines),
        accepted=len(valid),
        quarantined=len(reasons),
        bad_share=bad_share,
        max_bad_share=settings.max_bad_share,
        expectations=(*(_result(expectation, outcomes[expectation.name]) for expectation in expectations), families),
        table_failures=failures,
        counts=counts,
        unlabelled=unlabelled,
        read=_read_counts(rows.examples, reasons.keys()),
        audio={
            "files": len(facts),
            "seconds": round(sum(f.duration_s or 0.0 for f in facts.values()), 1),
            "stage_seconds": round(time.monotonic() - began, 1),
        },
        limits=settings.model_dump(mode="json"),
    )
    write_jsonl(quarantine, _quarantined(corpus / MANIFEST, rows, reasons))
    write_json(records / "results.json", result.to_json())
    write_text(records / "contract.html", _render_page(result))
    if not result.passed:
        raise ContractError(
            f"the data contract is not met: {result.failure_message()}\n",
            next_step=f"see {records / 'contract.html'} and {quarantine}, fix the data, run again",
        )
    write_jsonl(accepted, (example.to_row() for example in valid))
    return result


def _quarantined(manifest: Path, rows: Rows, reasons: Mapping[int, list[str]]) -> Iterator[dict[str, Any]]:
    """Yield the entries of the quarantine. The invalid rows are read again: the rows of a large corpus are not kept."""
    if not reasons:
        return
    for number, (line, row) in enumerate(iterate_rows(manifest)):
        if number in reasons:
            yield {"id": rows.examples[number].id, "line": line, "row": _strict_json(row), "reasons": reasons[number]}


def _result(expectation: Expectation, outcome: Outcome) -> ExpectationResult:
    first = tuple({"id": failure.id, "line": failure.line, "reason": failure.reason} for failure in outcome.failed[:_SHOWN])
    return ExpectationResult(expectation.name, expectation.expects, outcome.checked, len(outcome.failed), first)


def _family_counts(examples: Sequence[Example]) -> dict[str, dict[str, int]]:
    """Return the number of examples by split and family."""
    return {split: dict(sorted(Counter[str](e.family for e in examples if e.split == split).items())) for split in SPLITS}


def _read_counts(examples: Sequence[Example | InvalidRow], invalid: Set[int]) -> dict[str, dict[str, dict[str, int]]]:
    """Return by field and value the number of rows that were read, accepted and set aside. Values that are not text are one value."""
    counts: dict[str, dict[str, dict[str, int]]] = {}
    for field in _COUNTED:
        found: dict[str, dict[str, int]] = {}
        for number, example in enumerate(examples):
            entry = found.setdefault(getattr(example, field), {"read": 0, "accepted": 0, "set_aside": 0})
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
            ratio = max(sizes) / min(sizes) if min(sizes) else math.inf
            table.append({"row": len(table), "line": None, "id": split, expectation.column: ratio})
    failed = check_rows([expectation], table)[expectation.name].failed
    first = tuple({"id": failure.id, "line": None, "reason": f"{failure.reason}: {dict(counts[failure.id])}"} for failure in failed)
    failures = tuple(f"{expectation.name} in {row['id']}: {row['reason']}" for row in first) if table else ("no row is valid",)
    return ExpectationResult(expectation.name, expectation.expects, len(table), len(failed), first), failures


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
