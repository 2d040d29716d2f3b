"""Expectations computed by Great Expectations over the rows of a table, a part of the table at a time.

Each expectation is about one row, so the parts have the failures of the whole table; Great Expectations copies its columns several times.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from coat_core.corpus.contract.expectations import Expectation
from coat_core.corpus.contract.table import Row
from coat_core.errors import ContractError

PART_ROWS = 50_000
"""Rows of a part."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A row that does not meet an expectation."""

    number: int
    """Number of the row, from 0."""
    id: str
    line: int | None
    reason: str


@dataclass
class Outcome:
    """The rows that were checked for an expectation, and those that do not meet it, in the order of the table."""

    checked: int = 0
    failed: list[Failure] = field(default_factory=list)


def check_rows(expectations: Sequence[Expectation], table: Iterable[Row]) -> dict[str, Outcome]:
    """Return the outcome of each expectation by its name.

    Args:
        expectations: names are distinct.
        table: rows with `row` (number from 0), `id`, `line` and the columns of the expectations; it is read once.

    Raises:
        ContractError: an expectation could not be computed.
    """
    found = {expectation.name: Outcome() for expectation in expectations}
    rows, validator = iter(table), None
    while part := list(islice(rows, PART_ROWS)):
        validator = validator or _Validator(expectations)
        by_number = {row["row"]: row for row in part}
        for name, numbers in validator.failed(part).items():
            expectation = next(expectation for expectation in expectations if expectation.name == name)
            found[name].checked += sum(row[expectation.checked_column or expectation.column] is not None for row in part)
            found[name].failed += [
                Failure(number, row["id"], row["line"], expectation.format_reason(row[expectation.column]))
                for number in numbers
                for row in (by_number[number],)
            ]
    return found


class _Validator:
    """Great Expectations with the expectations of a table."""

    def __init__(self, expectations: Sequence[Expectation]) -> None:
        os.environ["GX_ANALYTICS_ENABLED"] = "false"
        with warnings.catch_warnings():
            # The import warns about deprecated modules of the standard library.
            warnings.simplefilter("ignore", DeprecationWarning)
            import great_expectations as gx

        context = gx.get_context(mode="ephemeral")
        context.variables.progress_bars = {"globally": False}
        asset = context.data_sources.add_pandas("facts").add_dataframe_asset("rows")
        self._expectations = expectations
        self._batches = asset.add_batch_definition_whole_dataframe("all")
        self._suite = gx.ExpectationSuite(
            name="contract", expectations=[_gx_expectation(gx.expectations, expectation) for expectation in expectations]
        )

    def failed(self, rows: Sequence[Row]) -> dict[str, list[int]]:
        """Return the numbers of the rows that do not meet each expectation.

        Raises:
            ContractError: an expectation could not be computed.
        """
        import pandas as pd

        batch = self._batches.get_batch({"dataframe": pd.DataFrame(list(rows))})
        outcome = batch.validate(self._suite, result_format={"result_format": "COMPLETE", "unexpected_index_column_names": ["row"]})
        by_name = {result.expectation_config.meta["name"]: result for result in outcome.results}
        failed: dict[str, list[int]] = {}
        for expectation in self._expectations:
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
