"""The numbers that the promotion gate decides on, as they are recorded with a version."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from coat_core.evaluation.statistics import MIN_GROUPS, MIN_ITEMS, too_few


@dataclass(frozen=True)
class PairedDifference:
    """A mean difference over the same examples, with its bootstrap interval: candidate − champion, − base or − chance.

    Attributes:
        difference: mean difference of scores.
        low: lower bound of the interval.
        high: upper bound.
        n: number of examples that both answered.
        confidence: confidence of the interval, e.g. 0.95.
        groups: number of distinct groups of these examples; None: not recorded.
    """

    difference: float
    low: float
    high: float
    n: int
    confidence: float
    groups: int | None = None

    @property
    def finite(self) -> bool:
        """Whether all three numbers are finite."""
        return all(is_finite(value) for value in (self.difference, self.low, self.high))

    @property
    def too_few(self) -> str:
        """Why the interval is not evidence, as a clause; empty if it is."""
        if not is_finite(self.n):
            return "the number of items is not recorded"
        if not too_few(self.n, self.groups):
            return ""
        groups = "" if self.groups is None else f" in {self.groups} group{'s' * (self.groups != 1)}"
        items = f"1 item{groups} is" if self.n == 1 else f"{self.n} items{groups} are"
        return f"{items} too few to judge (at least {MIN_ITEMS} items in {MIN_GROUPS} groups)"

    @property
    def text(self) -> str:
        """The numbers, for a sentence."""
        difference, low, high = (as_number(value) for value in (self.difference, self.low, self.high))
        return f"{difference:+.3f}, {self.confidence:.0%} interval [{low:+.3f}, {high:+.3f}]"


@dataclass(frozen=True)
class SuiteScore:
    """The strict score of a version on one public benchmark.

    Attributes:
        value: strict score.
        low: lower bound of its interval.
        high: upper bound.
        n: number of items.
        official: number of the published script; None if it gives none.
        data: split, files and number of items; two scores are compared only if it is equal.
    """

    value: float
    low: float
    high: float
    n: int
    official: float | None
    data: str


@dataclass(frozen=True)
class VersionRecord:
    """The record of one registered version.

    Attributes:
        name: registered model.
        version: version of the model.
        contract: result of the data contract, `passed` or another word.
        evaluation_set: SHA-256 of the examples that it was scored on.
        families: accuracy by task family (1 − WER for transcription); None for a family without scored answers.
        mean_accuracy: mean over families; None without any.
        unscored_share: share of responses without a readable answer.
        unsafe_files: artifacts that can run code when they are loaded.
        cold_load: answer of a cold load; None if it failed or was not tried.
        withdrawn: who withdrew the version, and why; None if it was not withdrawn.
        over_chance: mean accuracy − chance; None if it is not known.
        over_base: mean accuracy − that of the untouched base; None without an evaluation of the base on the same set.
        items: number of examples by family; a family that is missing here was not counted.
        probe_problem: why the answer of the cold load is not a real answer, as a clause; empty if it is one.
        suites: scores on public benchmarks, by name.
    """

    name: str
    version: str
    contract: str
    evaluation_set: str
    families: Mapping[str, float | None]
    mean_accuracy: float | None
    unscored_share: float
    unsafe_files: tuple[str, ...] = ()
    cold_load: str | None = None
    withdrawn: str | None = None
    over_chance: PairedDifference | None = None
    over_base: PairedDifference | None = None
    items: Mapping[str, int] = field(default_factory=dict)
    probe_problem: str = ""
    suites: Mapping[str, SuiteScore] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """`name version n`, for sentences."""
        return f"{self.name} version {self.version}"


def is_finite(value: object) -> bool:
    """Return whether a recorded value is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def as_number(value: object) -> float:
    """Return a recorded value as a float; NaN if it is missing or not a number."""
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan
