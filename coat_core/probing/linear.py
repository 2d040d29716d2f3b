"""Linear probes: how well a linear map of a hidden state predicts a label, by layer and position, against shuffled labels.

A probe that predicts shuffled labels as well as the right ones shows nothing about the states (control tasks, Hewitt & Liang 2019).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from coat_core.probing.labels import Floats, Label
from coat_core.probing.ridge import Ridge, r_squared

SHUFFLES = 5
"""Shuffled copies of a label, whose scores are averaged."""


def probe_states(train: Mapping[str, Tensor], test: Mapping[str, Tensor], labels: Sequence[Label], seed: int) -> dict[str, Any]:
    """Return position → label → `score` and `control`, each a list over layers.

    Args:
        train: position → states `[layers, n, D]` of the training examples.
        test: position → states `[layers, m, D]` of the validation examples.
        labels: the labels.
        seed: seed of the shuffled labels.
    """
    result: dict[str, Any] = {}
    for position, states in train.items():
        result[position] = {label.name: {"score": [], "control": []} for label in labels}
        for layer in range(len(states)):
            fitted, tested = (_floats(part[position][layer]) for part in (train, test))
            solvers: dict[tuple[int, ...], Ridge] = {}
            for label in labels:
                if label.train not in solvers:
                    solvers[label.train] = Ridge(_rows(fitted, label.train))
                score, control = _scores(solvers[label.train], _rows(tested, label.test), label, seed)
                result[position][label.name]["score"].append(round(score, 6))
                result[position][label.name]["control"].append(round(control, 6))
    return result


def _scores(solver: Ridge, queries: Floats, label: Label, seed: int) -> tuple[float, float]:
    """Return the score of a label, and the mean score of probes that were fitted on shuffled copies of it."""
    score = _score(label, solver.predict(label.train_targets, queries))
    generator = np.random.default_rng([seed, *label.name.encode()])
    orders = [generator.permutation(len(label.train)) for _ in range(SHUFFLES)]
    return score, float(np.mean([_score(label, solver.predict(label.train_targets[order], queries)) for order in orders]))


def _score(label: Label, predicted: Floats) -> float:
    if label.group == "experts":
        return r_squared(label.test_targets, predicted, label.train_targets.mean(axis=0))
    chosen = predicted.argmax(axis=1)
    return float(label.test_targets[np.arange(len(chosen)), chosen].mean())


def _floats(states: Tensor) -> Floats:
    return np.asarray(states.numpy(), dtype=np.float64)


def _rows(states: Floats, indices: Sequence[int]) -> Floats:
    return states[list(indices)]
