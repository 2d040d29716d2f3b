"""What is known about a benchmark: layout, licence, prompt, rule, metric and its denominator."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from coat_core.errors import EvaluationError
from coat_core.evaluation.benchmarks.data import DataVersion, Layout, data_folder, needed_files, version_of
from coat_core.evaluation.benchmarks.items import BenchmarkItem
from coat_core.evaluation.benchmarks.strict import Strict, strict_choice
from coat_core.evaluation.benchmarks.totals import OfficialTotal, ScoredItem, accuracy_total
from coat_core.evaluation.benchmarks.verdicts import Rule

Reader = Callable[[Sequence[Path], Path, str], list[BenchmarkItem]]
"""Annotation files, data folder and split → items."""


@dataclass(frozen=True)
class Licence:
    """A licence and whether it allows commercial use; "unclear" where no text of a licence was found."""

    name: str
    commercial: Literal["allowed", "forbidden", "unclear"]


@dataclass(frozen=True)
class Suite:
    """A benchmark.

    Attributes:
        name: key in the catalogue.
        title: name in reports.
        layout: the published files.
        licence: of questions and clips.
        read: reads the items of a split.
        prompt: the prompt of an item.
        prompt_source: where the prompt is published, or that it is ours.
        rule_of: data folder → the rule of the published script, per item.
        rule_name: the script, with its repository.
        metric: the published metric.
        denominator: what the script divides by.
        total: scored items → the script's total.
        strict: our reading.
        strict_name: what our reading measures.
        harnesses: rules of other harnesses, by name.
        groups: fields of an item by which results are reported.
    """

    name: str
    title: str
    layout: Layout
    licence: Licence
    read: Reader
    prompt: Callable[[BenchmarkItem], str]
    prompt_source: str
    rule_of: Callable[[Path], Rule]
    rule_name: str
    metric: str
    denominator: str
    total: Callable[[Sequence[ScoredItem]], OfficialTotal] = accuracy_total
    strict: Strict = strict_choice
    strict_name: str = "accuracy; a response without one clear option counts as wrong"
    harnesses: Mapping[str, Rule] = field(default_factory=dict)
    groups: tuple[str, ...] = ()


@dataclass(frozen=True)
class LoadedSuite:
    """The items of one split, the rule for them, and the identity of the files."""

    suite: Suite
    split: str
    items: tuple[BenchmarkItem, ...]
    rule: Rule
    version: DataVersion


def load(suite: Suite, data: str, split: str | None = None, *, accept_licence: bool = False) -> LoadedSuite:
    """Load the items of a benchmark.

    Args:
        suite: the benchmark.
        data: its folder, or `owner/name@commit` on the hub.
        split: default: the first of its layout.
        accept_licence: the user has read the licence; needed where it forbids commercial use.

    Raises:
        EvaluationError: the licence is not accepted, there is no such split, or files are missing or damaged.
    """
    if suite.licence.commercial == "forbidden" and not accept_licence:
        raise EvaluationError(
            f"the licence of {suite.title} forbids commercial use", field="accept_licence", value=False, allowed=suite.licence.name,
            next_step=f"read it at {suite.layout.origin}, then pass --accept-licence, or set accept_licence: true in params",
        )  # fmt: skip
    split = suite.layout.splits[0] if split is None else split
    if split not in suite.layout.files:
        raise EvaluationError(
            f"{suite.title} has no such split", field="split", value=split, allowed=suite.layout.splits, next_step="use one of these"
        )
    folder = data_folder(data, suite.layout, split)
    files = needed_files(folder, suite.layout, split)
    items = suite.read(files, folder, split)
    seen: set[str] = set()
    twice = [item.id for item in items if item.id in seen or seen.add(item.id)]  # type: ignore[func-returns-value]
    if twice or not items:
        raise EvaluationError(
            "an id occurs twice" if twice else "the files have no items", field="data", value=twice[:3] or str(folder),
            next_step=f"fetch the files again from {suite.layout.origin}",
        )  # fmt: skip
    return LoadedSuite(suite, split, tuple(items), suite.rule_of(folder), version_of(files, suite.layout, split))
