"""Totals of a published script: its number, what it divides by, and what it leaves out."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from coat_core.evaluation.benchmarks.items import BenchmarkItem, Given
from coat_core.evaluation.benchmarks.verdicts import Verdict
from coat_core.evaluation.scorers import Score, Unscored

FIRST_PLACE, SECOND_PLACE = "first_place", "second_place"
"""Details of a verdict: the score of a response that the judge saw before, or after, the reference answer; None if it is unreadable."""
_TOLERANCE = 1e-9


@dataclass(frozen=True)
class ScoredItem:
    """One item under both readings, and under the rules of other harnesses."""

    item: BenchmarkItem
    given: Given
    official: Verdict
    strict: Score | Unscored
    harnesses: Mapping[str, Verdict] = field(default_factory=dict)

    @property
    def strict_value(self) -> float:
        """Our score; 0 for an unscored response."""
        return self.strict.value if isinstance(self.strict, Score) else 0.0

    @property
    def differs(self) -> bool:
        """Whether the readings differ: another value, or no official value at all."""
        return self.official.value is None or abs(self.comparable - self.strict_value) > _TOLERANCE

    @property
    def comparable(self) -> float:
        """The official value on our scale: a word error rate as 1 - rate, at least 0; a judge's score as a share; 0 if there is none."""
        value = self.official.value or 0.0
        if "reference_words" in self.official.details:
            return max(0.0, 1.0 - value)
        return value / float(self.official.details.get("of", 1.0))


@dataclass(frozen=True)
class OfficialTotal:
    """The number of a script.

    Attributes:
        value: as the script prints it, in its unit (a share, not per cent); None if it prints none.
        over: its denominator: items, or reference words for word error rates.
        n: number of items of the split.
        left_out: items outside the denominator, by reason code.
        reason: why there is no number.
        further: other numbers: those that the script prints, and how far a judge agrees with itself.
    """

    value: float | None
    over: int
    n: int
    left_out: Mapping[str, int]
    reason: str = ""
    further: Mapping[str, Any] = field(default_factory=dict)


def accuracy_total(rows: Sequence[ScoredItem]) -> OfficialTotal:
    """Return the mean over the items that a script counts; none where an item stops the script or no item is counted."""
    return mean_of(rows, lambda row: row.official)


def mean_of(rows: Sequence[ScoredItem], verdict_of: Callable[[ScoredItem], Verdict]) -> OfficialTotal:
    """Return the mean of one rule's verdicts over the items that it counts."""
    verdicts = [verdict_of(row) for row in rows]
    values = [verdict.value for verdict in verdicts if verdict.value is not None]
    left_out = _left_out(verdicts)
    notes = sorted({verdict.note for verdict in verdicts if verdict.stops})
    if notes:
        return OfficialTotal(None, len(values), len(rows), left_out, f"the script stops: {notes[0]}")
    if left_out.get("needs_model"):
        notes = sorted({verdict.note for verdict in verdicts if verdict.code == "needs_model"})
        return OfficialTotal(None, len(values), len(rows), left_out, f"{left_out['needs_model']} items have no verdict: {notes[0]}")
    if not values:
        return OfficialTotal(None, 0, len(rows), left_out, "the script stops: ZeroDivisionError, no item is counted")
    return OfficialTotal(math.fsum(values) / len(values), len(values), len(rows), left_out)


def by_task_total(field: str) -> Callable[[Sequence[ScoredItem]], OfficialTotal]:
    """Return the total of AIR-Bench Foundation: an accuracy per task over its parsed items, and no overall number.

    A task without a parsed item stops the script (KeyError). With one task, its accuracy is the total.

    Args:
        field: the group that names the task.
    """

    def total(rows: Sequence[ScoredItem]) -> OfficialTotal:
        overall = mean_of(rows, lambda row: row.official)
        tasks: dict[str, list[float]] = {}
        # The script does not know items without a row.
        for row in (row for row in rows if row.official.code != "missing"):
            counted = tasks.setdefault(row.item.groups[field], [])
            counted.extend([row.official.value] if row.official.value is not None else [])
        further: dict[str, Any] = {
            "tasks": {task: {"correct": int(sum(v)), "over": len(v), "accuracy": sum(v) / len(v)} for task, v in tasks.items() if v},
            "fail_num": sum(row.official.code in ("unparsed", "empty") for row in rows),
        }
        empty = sorted(task for task, values in tasks.items() if not values)
        if any(row.official.stops for row in rows):
            return replace(overall, further=further)
        if empty:
            return replace(overall, value=None, reason=f"the script stops: KeyError: {empty[0]!r}", further=further)
        if len(tasks) > 1:
            return replace(overall, value=None, reason="the script prints a number per task and no total", further=further)
        return replace(overall, further=further)

    return total


def random_letter_total(rows: Sequence[ScoredItem]) -> OfficialTotal:
    """Return the accuracy of a script that draws a random option where it reads none.

    With such items there is no number to reproduce; `further` has its expectation over the draws.
    """
    result = accuracy_total(rows)
    drawn = [row.official.details["expected"] for row in rows if "expected" in row.official.details]
    if not drawn or any(row.official.stops for row in rows):
        return result
    known = [row.official.value for row in rows if row.official.value is not None]
    further = {"expected_accuracy": math.fsum([*known, *drawn]) / (len(known) + len(drawn))}
    return replace(result, value=None, reason=f"the script draws {len(drawn)} random letters", further=further)


def both_places_total(rows: Sequence[ScoredItem]) -> OfficialTotal:
    """Return the mean of a judge that is asked twice for each item, with the response in the first and in the second place.

    `further` shows whether its scores depend on the place: of the items of which both judgements are readable, their number, the share
    with equal scores, and the mean of the score in the first place minus that in the second; and how many judgements are unreadable.
    """
    result = accuracy_total(rows)
    asked = [row.official.details for row in rows if FIRST_PLACE in row.official.details]
    if not asked:
        return result
    pairs = [(row[FIRST_PLACE], row[SECOND_PLACE]) for row in asked if None not in (row[FIRST_PLACE], row[SECOND_PLACE])]
    further = {
        "judgements": 2 * len(asked),
        "judgements_unreadable": sum(row[place] is None for row in asked for place in (FIRST_PLACE, SECOND_PLACE)),
        "items_read_in_both_places": len(pairs),
        "equal_in_both_places": sum(first == second for first, second in pairs) / len(pairs) if pairs else None,
        "first_minus_second_place": math.fsum(first - second for first, second in pairs) / len(pairs) if pairs else None,
    }
    return replace(result, further=further)


def corpus_rate_total(rows: Sequence[ScoredItem]) -> OfficialTotal:
    """Return the word error rate of a corpus: the sum of edits over the sum of reference words.

    `further` has the mean of the items' rates, which other harnesses report, and the number of references without words, of which the
    first row of a file would stop Qwen2-Audio's script.
    """
    verdicts = [row.official for row in rows]
    left_out = _left_out([verdict for verdict in verdicts if "reference_words" not in verdict.details])
    notes = sorted({verdict.note for verdict in verdicts if verdict.stops})
    edits, words = (sum(verdict.details.get(name, 0) for verdict in verdicts) for name in ("edits", "reference_words"))
    rates = [verdict.value for verdict in verdicts if verdict.value is not None]
    further = {
        "edits": edits,
        "reference_words": words,
        "mean_of_items": math.fsum(rates) / len(rates) if rates else None,
        "references_without_words": sum(verdict.details.get("reference_words") == 0 for verdict in verdicts),
    }
    if notes or not words:
        reason = f"the script stops: {notes[0]}" if notes else "the script stops: ZeroDivisionError, no reference words"
        return OfficialTotal(None, words, len(rows), left_out, reason, further)
    return OfficialTotal(edits / words, words, len(rows), left_out, further=further)


def label_total(labels: Sequence[str], reading: Callable[[str], str] = str.lstrip) -> Callable[[Sequence[ScoredItem]], OfficialTotal]:
    """Return accuracy, with weighted and macro F1 and the mean recall in `further`.

    MELD's own script reports weighted F1, papers on audio language models accuracy.

    Args:
        labels: the classes of the benchmark.
        reading: response → the predicted class; a text that is no class is a class of its own.
    """

    def total(rows: Sequence[ScoredItem]) -> OfficialTotal:
        result = accuracy_total(rows)
        pairs = [(row.item.answer, reading(row.given)) for row in rows if isinstance(row.given, str) and row.item.answer is not None]
        further = label_measures([truth for truth, _ in pairs], [given for _, given in pairs], labels)
        return replace(result, further=further)

    return total


def label_measures(truths: Sequence[str], given: Sequence[str], labels: Sequence[str]) -> dict[str, float]:
    """Return accuracy, F1 (weighted by true labels; mean over the labels seen; mean over `labels`) and recall over true labels.

    Args:
        truths: n true labels.
        given: n predicted labels; words that are no label form further classes.
        labels: all classes of the benchmark.

    Returns:
        The measures by name, as scikit-learn computes them with `zero_division=0`; empty for no items.
    """
    if not truths:
        return {}
    right = Counter(truth for truth, other in zip(truths, given, strict=True) if truth == other)
    true, predicted = Counter(truths), Counter(given)
    f1 = {label: 2 * right[label] / (true[label] + predicted[label]) for label in true.keys() | predicted.keys()}
    seen = true.keys() | predicted.keys()
    return {
        "accuracy": right.total() / len(truths),
        "weighted_f1": math.fsum(f1[label] * count for label, count in true.items()) / len(truths),
        "macro_f1_over_labels_seen": math.fsum(f1.values()) / len(seen),
        f"macro_f1_over_{len(labels)}": math.fsum(f1.get(label, 0.0) for label in labels) / len(labels),
        "unweighted_recall_present": math.fsum(right[label] / count for label, count in true.items()) / len(true),
    }


def _left_out(verdicts: Sequence[Verdict]) -> dict[str, int]:
    return dict(sorted(Counter(verdict.code for verdict in verdicts if verdict.value is None).items()))
