from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from coat_core.errors import RegistryError
from coat_core.evaluation.statistics import Bootstrap
from coat_core.registry.comparison import compare
from coat_core.storage import read_json
from tests.testing.scores import write_evaluation

NAME = "coat-qwen2-audio"
BOOTSTRAP = Bootstrap(200)


def test_a_champion_of_another_evaluation_set_is_evaluated_again_once(
    workspace: Path, register: Callable[..., str], judge: Callable[..., str]
) -> None:
    judge(register(5, 5, questions="old"))
    better = register(9, 9, questions="new")
    assert judge(better) == "refused"

    calls = []

    def evaluate(release: Path, target: Path) -> None:
        calls.append(read_json(release / "coat.json"))
        write_evaluation(target, (16, 16), 40, "new")

    compared = compare(NAME, better, workspace, bootstrap=BOOTSTRAP, evaluate=evaluate)
    assert compared.champion is not None
    assert compared.champion.mean_accuracy == pytest.approx(0.4)
    assert compared.difference is not None
    assert compared.difference.difference == pytest.approx(0.5)
    assert Path(calls[0]["base"]["id"]).name == "base", "the base that is packed with the champion"
    compare(NAME, better, workspace, bootstrap=BOOTSTRAP, evaluate=evaluate)
    assert len(calls) == 1
    assert judge(better) == "promoted"


def test_an_evaluation_of_the_champion_on_another_set_is_an_error(
    workspace: Path, register: Callable[..., str], judge: Callable[..., str]
) -> None:
    judge(register(5, 5, questions="old"))
    better = register(9, 9, questions="new")
    with pytest.raises(RegistryError, match="another set"):
        compare(
            NAME, better, workspace, bootstrap=BOOTSTRAP, evaluate=lambda release, target: write_evaluation(target, (4, 4), 10, "third")
        )
