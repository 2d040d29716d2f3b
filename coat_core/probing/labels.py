"""Labels of linear probes: what each expert measures on a clip, and the answers of tasks with a few possible answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from coat_core.corpus.examples import Example
from coat_core.experts.store.store import ExpertStore
from coat_core.probing.selection import first_of_each_clip

Floats = NDArray[np.float64]

MIN_TRAIN, MIN_TEST = 20, 8
"""Fewer examples of a task are too few for a probe."""
LEAST_SPREAD = 0.05
"""A dimension is left out if the standard deviation of its clip means is below this share of that of its frames: its experts remove
the mean of a clip, as mean-normalised MFCCs do."""
MAX_ANSWERS = 12
"""A task with more different answers in training is not a classification task."""


@dataclass(frozen=True)
class Label:
    """One label of the examples to probe on.

    Attributes:
        name: the expert's key or the task.
        group: `experts` (regression, scored by R²) or `answers` (classification, scored by accuracy).
        train: indices of the training examples with this label.
        train_targets: `[n, d]`: an expert's features, standardised by their training statistics, or one-hot answers.
        test: indices of the validation examples.
        test_targets: `[m, d]`; an answer that training does not contain is all zero.
    """

    name: str
    group: Literal["experts", "answers"]
    train: tuple[int, ...]
    train_targets: Floats
    test: tuple[int, ...]
    test_targets: Floats


def expert_labels(stores: Mapping[str, ExpertStore], train: Sequence[Example], test: Sequence[Example]) -> list[Label]:
    """Return a label for each expert: the mean of its features over the valid frames of a clip (see `clip_mean`), each clip once.

    Clips without a mean, and dimensions that do not vary between clips, are left out, as are experts without any other dimension.
    """
    labels = []
    for key, store in stores.items():
        parts = []
        for examples in (train, test):
            means = {index: clip_mean(store, examples[index].sha256) for index in first_of_each_clip(examples)}
            parts.append({index: mean for index, mean in means.items() if mean is not None})
        if len(parts[0]) < MIN_TRAIN or len(parts[1]) < MIN_TEST:
            continue
        fitted, tested = (np.stack(list(part.values())) for part in parts)
        mean, std = fitted.mean(axis=0), fitted.std(axis=0)
        varies = std > (1e-6 if store.spec.target == "pitch_bins" else LEAST_SPREAD * store.normaliser.std)
        if not varies.any():
            continue
        fitted, tested = ((part - mean)[:, varies] / std[varies] for part in (fitted, tested))
        labels.append(Label(key, "experts", tuple(parts[0]), fitted, tuple(parts[1]), tested))
    return labels


def clip_mean(store: ExpertStore, clip: str) -> Floats | None:
    """Return the mean `[d]` of an expert's features over a clip's valid frames; None without one.

    For bins of pitch it is the mean bin of the voiced frames and the share of voicing, `[2]`; None for a clip without voicing.
    """
    features, mask = store.get(clip)
    frames = np.asarray(features, dtype=np.float64)[np.asarray(mask, dtype=bool)]
    if not len(frames):
        return None
    if store.spec.target != "pitch_bins":
        return np.asarray(frames.mean(axis=0), dtype=np.float64)
    bins = frames[:, :-1] * frames[:, -1:]
    if bins.sum() <= 0.0:
        return None
    return np.asarray([(bins @ np.arange(bins.shape[1])).sum() / bins.sum(), frames[:, -1].mean()])


def answer_labels(train: Sequence[Example], test: Sequence[Example]) -> list[Label]:
    """Return a label for each multiple-choice task with 2 to `MAX_ANSWERS` different answers and enough examples."""
    labels = []
    for task in dict.fromkeys(example.task for example in train if example.choices is not None):
        fitted, tested = (
            [index for index, example in enumerate(examples) if example.task == task and example.choices is not None]
            for examples in (train, test)
        )
        answers = sorted({train[index].label for index in fitted})
        if len(fitted) < MIN_TRAIN or len(tested) < MIN_TEST or not 2 <= len(answers) <= MAX_ANSWERS:
            continue
        targets = [
            np.asarray([[float(examples[index].label == answer) for answer in answers] for index in indices])
            for examples, indices in ((train, fitted), (test, tested))
        ]
        labels.append(Label(task, "answers", tuple(fitted), targets[0], tuple(tested), targets[1]))
    return labels
