from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from coat_core.corpus.examples import Example
from coat_core.probing.labels import Label, answer_labels, clip_mean, expert_labels
from coat_core.probing.linear import probe_states
from tests.testing.evaluations import make_example


def _label(name: str, group: Any, train: np.ndarray, test: np.ndarray) -> Label:
    return Label(name, group, tuple(range(len(train))), train, tuple(range(len(test))), test)


def test_a_probe_finds_a_label_only_where_the_states_contain_it() -> None:
    """The label is in the think states of layer 2 and nowhere else; shuffled labels are found nowhere."""
    rng = np.random.default_rng(0)
    measured = {"train": rng.standard_normal((80, 2)), "test": rng.standard_normal((40, 2))}
    kinds = {split: (part[:, :1] > 0).astype(float) for split, part in measured.items()}
    labels = [
        _label("loudness", "experts", measured["train"], measured["test"]),
        _label("emotion", "answers", *(np.hstack([kinds[split], 1 - kinds[split]]) for split in ("train", "test"))),
    ]
    states = {}
    for split, part in measured.items():
        noise = rng.standard_normal((2, 2, len(part), 6))
        noise[1, 1, :, :2] = part
        states[split] = {"audio": torch.tensor(noise[0]), "think": torch.tensor(noise[1])}
    found = probe_states(states["train"], states["test"], labels, seed=1)
    assert found == probe_states(states["train"], states["test"], labels, seed=1)
    assert found["think"]["loudness"]["score"][1] > 0.99
    assert found["think"]["emotion"]["score"][1] > 0.9
    for position, layer in (("audio", 0), ("audio", 1), ("think", 0)):
        assert found[position]["loudness"]["score"][layer] < 0.1
        assert found[position]["emotion"]["score"][layer] < 0.75
    assert max(found["think"]["loudness"]["control"]) < 0.1
    assert all(0.3 < control < 0.7 for control in found["think"]["emotion"]["control"])


class Store:
    """A store of invented features: clip → frames `[T, d]`, all valid except the last."""

    def __init__(self, target: str, features: dict[str, np.ndarray], std: float = 1.0) -> None:
        self.features = features
        width = next(iter(features.values())).shape[1]
        self.spec, self.normaliser = SimpleNamespace(target=target), SimpleNamespace(std=np.full(width, std))

    def get(self, clip: str) -> tuple[np.ndarray, np.ndarray]:
        frames = self.features[clip]
        return np.vstack([frames, np.full((1, frames.shape[1]), 99.0)]), np.asarray([True] * len(frames) + [False])


def test_the_mean_of_a_clip_by_hand() -> None:
    store: Any = Store("regression", {"a": np.asarray([[1.0, 4.0], [3.0, 4.0]])})
    np.testing.assert_allclose(clip_mean(store, "a"), [2.0, 4.0])
    # Bins 0 1 2 and voicing: bin 2 with weight 1, bin 0 with weight .5, and an unvoiced frame: mean bin (2 + 0) / 1.5.
    bins = np.asarray([[0.0, 0.0, 1.0, 1.0], [1.0, 0.0, 0.0, 0.5], [0.0, 1.0, 0.0, 0.0]])
    pitch: Any = Store("pitch_bins", {"a": bins, "b": np.asarray([[1.0, 0.0, 0.0, 0.0]])})
    np.testing.assert_allclose(clip_mean(pitch, "a"), [4 / 3, 0.5])
    assert clip_mean(pitch, "b") is None


def _clips(split: str, count: int) -> list[Example]:
    return [make_example(n, split=split, sha256=f"{split}{n}") for n in range(count)]


def test_each_clip_counts_once_and_constant_dimensions_are_left_out() -> None:
    train, test = _clips("train", 24), _clips("validation", 10)
    rng = np.random.default_rng(2)
    features = {example.sha256: rng.standard_normal((5, 2)) * [1.0, 0.0] for example in [*train, *test]}
    stores: dict[str, Any] = {
        "varies": Store("regression", features), "removed": Store("regression", {clip: 0 * frames for clip, frames in features.items()})
    }  # fmt: skip
    (label,) = expert_labels(stores, [*train, *train], test)
    assert (label.name, label.group, label.train_targets.shape, label.test_targets.shape) == ("varies", "experts", (24, 1), (10, 1))
    assert label.train == tuple(range(24))
    assert label.train_targets.mean() == pytest.approx(0.0, abs=1e-9)
    assert label.train_targets.std() == pytest.approx(1.0)


def test_a_task_with_many_answers_or_few_examples_has_no_label() -> None:
    def rows(split: str, task: str, answers: list[str]) -> list[Example]:
        return [make_example(n, split=split, task=task, answer=answer) for n, answer in enumerate(answers)]

    train = [*rows("train", "emotion", ["a horn", "a drum"] * 12), *rows("train", "rare", ["a horn", "a drum"] * 2)]
    train += rows("train", "names", [f"name {n}" for n in range(24)])
    test = [*rows("validation", "emotion", ["a drum", "a bell"] * 5), *rows("validation", "rare", ["a horn"] * 9)]
    test += rows("validation", "names", ["name 1"] * 9)
    (label,) = answer_labels(train, test)
    assert (label.name, label.train_targets.shape) == ("emotion", (24, 2))
    # Columns: a drum, a horn. An answer that training does not contain is in no column.
    assert label.test_targets[:2].tolist() == [[1.0, 0.0], [0.0, 0.0]]
