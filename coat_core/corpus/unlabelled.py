"""Unlabelled examples: clips without an answer, which take part in distillation only."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from coat_core.corpus.examples import Example, Family
from coat_core.storage import sha256_bytes

QUESTION = "Describe the audio."
"""The question of a clip that has none, so that a prompt can be built."""
TASK = "unlabelled"


def limit_labels(examples: Sequence[Example], clips_per_family: int | None, seed: int) -> list[Example]:
    """Return the examples with the labels of at most `clips_per_family` training clips of each family; null: the examples unchanged.

    The order in which the clips of a family lose their labels is a permutation that depends only on the seed and the paths of the
    clips: the labelled clips of a smaller number are a subset of those of a larger one. All rows of a clip (equal audio) keep their
    answers, or the clip becomes one unlabelled row with the id of its first row, at its place. A clip counts for the family of its
    first row. Clips, groups and splits are the same for every number.

    Args:
        examples: the manifest; ids are distinct.
        clips_per_family: labelled training clips of each family; more than there are: all stay labelled.
        seed: seed of the permutation.
    """
    if clips_per_family is None:
        return list(examples)
    first: dict[str, Example] = {}
    labelled: dict[Family, set[str]] = defaultdict(set)
    for example in examples:
        if example.split == "train":
            clip = first.setdefault(example.sha256, example)
            if example.labelled:
                labelled[clip.family].add(clip.sha256)
    removed: set[str] = set()
    for family, clips in labelled.items():
        keys = {clip: sha256_bytes(f"{seed}/labels/{family}/{first[clip].audio}".encode()) for clip in clips}
        removed.update(sorted(clips, key=lambda clip: (keys[clip], clip))[clips_per_family:])
    limited = []
    for example in examples:
        if example.split != "train" or example.sha256 not in removed:
            limited.append(example)
        elif example is first[example.sha256]:
            limited.append(example.model_copy(update={"task": TASK, "question": QUESTION, "choices": None, "answer": None}))
    return limited
