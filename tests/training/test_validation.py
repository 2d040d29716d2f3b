"""The answer loss on validation examples in the history of a training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from coat_core.corpus.examples import Example
from coat_core.evaluation.answer_losses import answer_losses, loss_per_token
from coat_core.report.results import VALIDATION
from coat_core.storage import read_jsonl
from coat_core.thinking.release import load_release
from coat_core.training.trainer import Trainer
from coat_core.training.validation import KEY
from tests.testing.tiny_training import World

DROPOUT = {"lora": {"dropout": 0.2}, "heads": {"dropout": 0.2}}


@pytest.fixture
def examples(world: World) -> list[Example]:
    """Three of the ten clips are for validation."""
    return [example.model_copy(update={"split": "validation"}) if n in (2, 5, 8) else example for n, example in enumerate(world.examples)]


def train(
    world: World, where: Path, examples: list[Example], trial: str = "coat-0", *, dropout: bool = True, **training: Any
) -> list[dict[str, Any]]:
    settings = world.settings(training={**world.settings().training.model_dump(), **training}, **(DROPOUT if dropout else {}))
    world.train(where, trial, settings, examples=examples)
    return read_jsonl(where / "run" / "history.jsonl")


def measured(rows: list[dict[str, Any]]) -> dict[int, float]:
    return {row["step"]: row[KEY] for row in rows if KEY in row}


@pytest.mark.parametrize("trial", ["sft-0", "coat-0"])
def test_it_is_measured_in_intervals_and_last_and_is_the_loss_of_the_evaluation(
    world: World, examples: list[Example], tmp_path: Path, trial: str
) -> None:
    found = measured(train(world, tmp_path, examples, trial, validate_every=4))
    assert list(found) == [4, 8, 10]
    backbone = load_release(tmp_path / "model", base=str(world.folder / "base")).backbone
    expected = loss_per_token(answer_losses(backbone, [e for e in examples if e.split == "validation"], world.corpus))
    assert found[10] == pytest.approx(expected.value, rel=1e-4)
    assert found[4] != found[8]


def test_it_changes_no_weight_and_no_other_value(world: World, examples: list[Example], tmp_path: Path) -> None:
    without = train(world, tmp_path / "without", examples, validate_every=0)
    rows = train(world, tmp_path / "with", examples, validate_every=1)
    assert not measured(without)
    assert list(measured(rows)) == list(range(1, 11))
    for before, row in zip(without, rows, strict=True):
        assert {name: row[name] for name in before if name.startswith(("loss", "skill", "gradient"))} == {
            name: before[name] for name in before if name.startswith(("loss", "skill", "gradient"))
        }
    for path in (tmp_path / "with/model").iterdir():
        assert path.read_bytes() == (tmp_path / "without/model" / path.name).read_bytes(), path.name


def test_a_resumed_training_measures_the_same(
    world: World, examples: list[Example], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = measured(train(world, tmp_path / "whole", examples, validate_every=2))
    step = Trainer.step

    def dying(self: Trainer, at: int) -> dict[str, Any]:
        if at == 5:
            raise RuntimeError("power cut")
        return step(self, at)

    monkeypatch.setattr(Trainer, "step", dying)
    with pytest.raises(RuntimeError, match="power cut"):
        train(world, tmp_path / "cut", examples, validate_every=2)
    monkeypatch.setattr(Trainer, "step", step)
    assert measured(train(world, tmp_path / "cut", examples, validate_every=2)) == expected


def test_batches_are_cut_by_seconds_and_the_sample_is_limited(world: World, examples: list[Example], tmp_path: Path) -> None:
    whole = measured(train(world, tmp_path / "whole", examples, dropout=False, validate_every=10))
    cut = measured(train(world, tmp_path / "cut", examples, dropout=False, validate_every=10, batch_seconds=1.5))
    assert cut == pytest.approx(whole, rel=1e-3)
    one = measured(train(world, tmp_path / "one", examples, dropout=False, validate_every=10, validation_items=1))
    assert one[10] != pytest.approx(whole[10], rel=1e-3)


def test_without_validation_examples_nothing_is_measured(world: World, tmp_path: Path) -> None:
    assert measured(train(world, tmp_path, world.examples, validate_every=1)) == {}


def test_the_report_reads_the_name_that_the_trainer_writes() -> None:
    assert VALIDATION == KEY
