"""Unlabelled examples: they take part in distillation only, and change no labelled batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from coat_core.settings import find_arm
from coat_core.storage import read_jsonl
from coat_core.training.build import TrainingData, TrainingRun
from coat_core.training.trainer import Trainer
from tests.testing.tiny_training import KEY, World

TRAINING = {"accumulation": 1, "batch_size": 3, "unlabelled_batch_size": 2, "ground_steps": 2, "respond_steps": 2, "checkpoint_every": 2}


def _unlabelled(world: World) -> list[Any]:
    """Return the examples with the answers of the last four removed."""
    return [e if n < 6 else e.model_copy(update={"answer": None, "choices": None}) for n, e in enumerate(world.examples)]


def _run(world: World, arm: str, **training: Any) -> TrainingRun:
    settings = world.settings(training={**TRAINING, **training})
    return TrainingRun(settings, KEY, find_arm(arm), 0, Path(), "key")


def test_labelled_batches_are_those_of_the_arms_without_unlabelled_examples(world: World) -> None:
    examples = _unlabelled(world)
    with_them, without = TrainingData.of(examples, _run(world, "coat")), TrainingData.of(examples, _run(world, "sft"))
    assert (len(with_them.labelled), len(with_them.unlabelled), without.unlabelled) == (6, 4, ())
    assert TrainingData.of(examples, _run(world, "coat", unlabelled_batch_size=0)).unlabelled == ()
    training = world.settings(training=TRAINING).training
    first, second = with_them.order(training, 1), without.order(training, 1)
    seen = set()
    for step in range(4):
        indices = first.batch_indices("respond", step, 0, 0)
        labelled = second.batch_indices("respond", step, 0, 0)
        assert indices[: len(labelled)] == labelled
        added = indices[len(labelled) :]
        assert len(added) == 2
        assert all(not with_them.examples[index].labelled for index in added)
        seen |= set(added)
    assert seen == {6, 7, 8, 9}


def test_a_training_with_unlabelled_examples_counts_their_clips_and_not_their_tokens(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[tuple[int, dict[str, int]]] = []
    original = Trainer._totals

    def totals(self: Trainer, window: Any) -> Any:
        result = original(self, window)
        rows = [self.dataset.examples[index] for micro in window for index in micro.indices]
        labelled = [index for micro in window for index in micro.indices if self.dataset.examples[index].labelled]
        assert result.answer_tokens == self.dataset.answer_tokens(labelled)
        found.append((len(rows) - len(labelled), dict(result.clips)))
        assert set(result.clips.values()) == {len(rows)}
        return result

    monkeypatch.setattr(Trainer, "_totals", totals)
    world.train(tmp_path, "coat-0", world.settings(training=TRAINING), examples=_unlabelled(world))
    assert [unlabelled for unlabelled, _ in found] == [2, 2, 2, 2]
    rows = read_jsonl(tmp_path / "run/history.jsonl")
    assert len(rows) == 4
    assert {"skill/pitch", "skill/reconstruction", "gradient_norm/lora", "gradient_norm/rows", "gradient_norm/heads"} <= set(rows[0])
    assert rows[0]["skill/pitch"] == pytest.approx(1 - rows[0]["loss/pitch"])
