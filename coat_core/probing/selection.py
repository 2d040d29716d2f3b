"""Selection of the examples that a release is probed on."""

from __future__ import annotations

import random
from collections.abc import Sequence

from coat_core.corpus.examples import Example, Split
from coat_core.errors import EvaluationError


def choose_examples(examples: Sequence[Example], split: Split, count: int, seed: int) -> list[Example]:
    """Return at most `count` labelled examples of a split, in manifest order, as many of each family as possible.

    Each family is shuffled by the seed; the families then give one example after the other.

    Raises:
        EvaluationError: the split has no labelled example.
    """
    labelled = [(place, example) for place, example in enumerate(examples) if example.split == split and example.labelled]
    if not labelled:
        raise EvaluationError(
            "there is no labelled example to probe on",
            field="split",
            value=split,
            next_step=f"give the corpus {split} examples (corpus.clips_per_family)",
        )
    queues: dict[str, list[int]] = {}
    for place, example in labelled:
        queues.setdefault(example.family, []).append(place)
    for family, places in queues.items():
        random.Random(f"probe {split} {seed} {family}").shuffle(places)
    longest = max(map(len, queues.values()))
    turns = [places[turn] for turn in range(longest) for places in queues.values() if turn < len(places)]
    return [examples[place] for place in sorted(turns[:count])]


def first_of_each_clip(examples: Sequence[Example]) -> list[int]:
    """Return the indices of the first example of each clip."""
    first: dict[str, int] = {}
    for index, example in enumerate(examples):
        first.setdefault(example.sha256, index)
    return list(first.values())
