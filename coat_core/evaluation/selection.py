"""Selection of the examples to evaluate, and the hash that identifies them."""

from __future__ import annotations

from collections.abc import Sequence

from coat_core.corpus.examples import Example
from coat_core.errors import EvaluationError
from coat_core.settings import EvaluationSettings
from coat_core.storage import sha256_json


def select(examples: Sequence[Example], settings: EvaluationSettings) -> list[Example]:
    """Return the labelled examples of the split, at most `limit_per_family` per family, in manifest order.

    Raises:
        EvaluationError: the split contains no labelled examples.
    """
    counts: dict[str, int] = {}
    chosen = []
    for example in examples:
        if example.split != settings.split or not example.labelled:
            continue
        counts[example.family] = counts.get(example.family, 0) + 1
        if settings.limit_per_family is None or counts[example.family] <= settings.limit_per_family:
            chosen.append(example)
    if not chosen:
        raise EvaluationError(
            "the split contains no labelled examples",
            field="evaluation.split",
            value=settings.split,
            next_step="choose a split that the accepted manifest contains",
        )
    return chosen


def evaluation_set(examples: Sequence[Example]) -> str:
    """Return the SHA-256 that identifies an evaluation set: everything that a score or its interval depends on, in order.

    Two sets are equal if they have the same ids, audio bytes, questions, choices in the same order, answers, families (these determine
    the scorer and the mean over families) and groups (the units of the bootstrap). The path of the audio, its source and licence do not
    matter.

    Raises:
        CorpusError: an example is unlabelled.
    """
    return sha256_json(
        [
            [example.id, example.sha256, example.question, example.choices, example.label, example.family, example.group]
            for example in examples
        ]
    )
