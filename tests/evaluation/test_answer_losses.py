from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from coat_core.corpus.examples import Example
from coat_core.errors import EvaluationError
from coat_core.evaluation.answer_losses import AnswerLoss, answer_losses, loss_per_token, paired_loss_difference
from coat_core.evaluation.generate import clips_of, query_of
from coat_core.thinking.release import load_release
from tests.testing.evaluations import KEY


@pytest.fixture
def release(make_release: Callable[[str, str], Path]) -> Any:
    return load_release(make_release(KEY, "coat"))


def test_the_loss_is_that_of_the_stock_model(release: Any, corpus: tuple[Path, list[Example]]) -> None:
    folder, examples = corpus
    chosen = [example for example in examples if example.split == "test"][:3]
    rows = answer_losses(release.backbone, chosen, folder)
    assert [row.id for row in rows] == [example.id for example in chosen]
    for example, row in zip(chosen, rows, strict=True):
        query = query_of(example, clips_of(folder))
        batch = release.backbone.encode([type(query)(**{**query.__dict__, "answer": example.answer})])
        with torch.no_grad():
            logits = release.backbone.model(**release.backbone.generation_inputs(batch)).logits[0]
        answer = batch.answer_mask[0].nonzero()[:, 0]
        expected = -torch.log_softmax(logits[answer - 1], dim=-1)[range(len(answer)), batch.input_ids[0, answer]].sum()
        assert (row.loss, row.tokens) == (pytest.approx(float(expected), rel=1e-4), len(answer))


def test_the_loss_does_not_depend_on_the_batch(release: Any, corpus: tuple[Path, list[Example]]) -> None:
    folder, examples = corpus
    together = answer_losses(release.backbone, examples[:7], folder, batch_size=7)
    apart = answer_losses(release.backbone, examples[:7], folder, batch_size=2)
    assert [row.loss for row in together] == pytest.approx([row.loss for row in apart], rel=1e-4)
    assert [row.tokens for row in together] == [row.tokens for row in apart]


def test_unlabelled_examples_are_refused(release: Any, corpus: tuple[Path, list[Example]]) -> None:
    folder, examples = corpus
    unlabelled = examples[1].model_copy(update={"answer": None})
    with pytest.raises(EvaluationError, match="labelled"):
        answer_losses(release.backbone, [examples[0], unlabelled], folder)
    with pytest.raises(EvaluationError, match="labelled"):
        answer_losses(release.backbone, [], folder)


def test_the_loss_per_token_and_its_error() -> None:
    rows = [AnswerLoss("a", 2.0, 2), AnswerLoss("b", 6.0, 2), AnswerLoss("c", 4.0, 4)]
    # 12 nats over 8 tokens; residuals -1, 3, -2 of a ratio of 1.5.
    assert (loss_per_token(rows).value, loss_per_token(rows).error) == (1.5, pytest.approx((3 / 2 * 14) ** 0.5 / 8))
    lower = [AnswerLoss(row.id, row.loss - 0.5 * row.tokens, row.tokens) for row in rows]
    gap = paired_loss_difference(lower, rows)
    # Every token's loss falls by 0.5: the paired difference has no error, although those of both means are large.
    assert (gap.value, gap.error) == (-0.5, 0.0)
    assert loss_per_token(rows[:1]).error == 0.0


def test_losses_of_other_examples_or_tokens_are_not_paired() -> None:
    rows = [AnswerLoss("a", 2.0, 2), AnswerLoss("b", 6.0, 2)]
    for others in (rows[:1], rows[::-1], [rows[0], AnswerLoss("b", 6.0, 3)]):
        with pytest.raises(EvaluationError, match="different examples"):
            paired_loss_difference(rows, others)
    with pytest.raises(EvaluationError, match="no examples"):
        loss_per_token([])
