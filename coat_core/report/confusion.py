"""Which choice was answered where another was right: counts by task, for DVC's plot and for the table of an MLflow run."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from coat_core.corpus.examples import Example
from coat_core.corpus.normal_form import normalise_option
from coat_core.evaluation.responses import read_responses
from coat_core.evaluation.scorers import Unscored, kind_of, read_choice

COLUMNS = ("backbone", "arm", "trial", "task", "right", "answered", "count")
UNSCORED = "(unscored)"
"""In `answered`: the response names none of the choices, or several."""
FEWEST_CHOICES, MOST_CHOICES = 3, 12
"""A task has counts if all its questions together have so many choices: with 2, accuracy says it; with more, the cells are nearly empty."""


def confusion_rows(workspace: Path, results: Mapping[str, Any], examples: Iterable[Example]) -> list[tuple[Any, ...]]:
    """Return one row, as `COLUMNS`, for each pair of right and answered choice that occurs in the evaluated split.

    Args:
        workspace: contains `responses/`.
        results: content of `results.json`.
        examples: rows of the accepted manifest.

    Raises:
        EvaluationError: responses are missing or invalid.
    """
    chosen = _with_choices(example for example in examples if example.split == results["measured"]["split"])
    rows: list[tuple[Any, ...]] = []
    for key, backbone in results["backbones"].items():
        for arm, values in backbone["arms"].items():
            for seed in values["seeds"]:
                trial = f"{arm}-{seed}"
                counts = _count(chosen, workspace / "responses" / f"{key}-{trial}.jsonl")
                rows += [(key, arm, trial, *cell, count) for cell, count in sorted(counts.items())]
    return rows


def _with_choices(examples: Iterable[Example]) -> dict[str, Example]:
    """Return the multiple-choice examples by id whose task has a bounded number of choices."""
    of_task: dict[str, list[Example]] = defaultdict(list)
    for example in examples:
        if kind_of(example) == "choice" and example.labelled:
            of_task[example.task].append(example)
    return {
        example.id: example
        for found in of_task.values()
        if FEWEST_CHOICES <= len({option for example in found for option in _options(example)}) <= MOST_CHOICES
        for example in found
    }


def _count(examples: Mapping[str, Example], responses: Path) -> Counter[tuple[str, str, str]]:
    """Count (task, right choice, answered choice)."""
    counts: Counter[tuple[str, str, str]] = Counter()
    for row in read_responses(responses):
        example = examples.get(row.id)
        if example is not None and row.audio == "own":
            options = _options(example)
            answered = read_choice(options, row.response)
            counts[example.task, normalise_option(example.label), UNSCORED if isinstance(answered, Unscored) else options[answered]] += 1
    return counts


def _options(example: Example) -> list[str]:
    return [normalise_option(choice) for choice in example.choices or ()]
