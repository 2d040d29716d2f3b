"""Answer loss of a model: the cross-entropy of the right answer, given clip and question, per example.

The loss is more sensitive than accuracy to a small change of the model, and does not depend on how a response is read.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from coat_core.backbones.base import Backbone, Batch
from coat_core.batching import length_sorted_batches
from coat_core.corpus.examples import Example
from coat_core.errors import EvaluationError
from coat_core.training.dataset import AudioEmbeddingCache, TrainingDataset

_CACHE_MB = 2048


@dataclass(frozen=True)
class AnswerLoss:
    """The answer loss of one example.

    Attributes:
        id: the example's id.
        loss: sum of the token cross-entropies (nats) over answer and end of turn.
        tokens: number of these tokens.
    """

    id: str
    loss: float
    tokens: int


@dataclass(frozen=True)
class Mean:
    """A mean and its standard error."""

    value: float
    error: float


@torch.inference_mode()
def answer_losses(
    backbone: Backbone, examples: Sequence[Example], corpus: Path, *, batch_size: int = 32, embeddings: AudioEmbeddingCache | None = None,
    blocked: Callable[[Batch], Tensor] | None = None,
) -> list[AnswerLoss]:  # fmt: skip
    """Return the answer loss of each example, in their order.

    Args:
        backbone: the model; of a release, `load_release(folder).backbone`. Its template writes the thinking block.
        examples: labelled examples.
        corpus: folder that audio paths are relative to.
        batch_size: most examples in one forward; it changes no result beyond rounding.
        embeddings: cache of the audio tower's outputs; None: a new one.
        blocked: returns the pairs of positions `[B, L, L]` of a batch that attention is blocked between; None: none is blocked.

    Raises:
        EvaluationError: there are no examples, or one is unlabelled.
    """
    unlabelled = [example.id for example in examples if example.answer is None]
    if not examples or unlabelled:
        raise EvaluationError(
            "the answer loss needs labelled examples", field="examples", value=unlabelled[:3], next_step="pass examples that have an answer"
        )
    dataset = TrainingDataset(backbone, examples, corpus, embeddings or AudioEmbeddingCache(backbone, _CACHE_MB))
    device = backbone.embedding.weight.device
    result: dict[int, AnswerLoss] = {}
    for rows in length_sorted_batches([example.duration_s for example in examples], batch_size):
        batch = dataset.batch(rows, device)
        embedded = backbone.embed(batch, dataset.audio(rows, device))
        _, states = backbone.hidden_states(embedded, batch.attention_mask, 1, blocked(batch) if blocked is not None else None)
        predicted = batch.answer_mask[:, 1:]
        logits = backbone.answer_logits(states[:, :-1][predicted]).float()
        losses = F.cross_entropy(logits, batch.input_ids[:, 1:][predicted], reduction="none").double()
        sums = torch.zeros(len(rows), dtype=torch.float64, device=device).index_add_(0, predicted.nonzero()[:, 0], losses)
        for index, loss, tokens in zip(rows, sums.tolist(), predicted.sum(dim=1).tolist(), strict=True):
            result[index] = AnswerLoss(examples[index].id, loss, tokens)
    return [result[index] for index in range(len(examples))]


def loss_per_token(losses: Sequence[AnswerLoss]) -> Mean:
    """Return the loss per answer token (nats), with its standard error over examples (that of a ratio of two sums).

    Raises:
        EvaluationError: there are no examples.
    """
    return _ratio([row.loss for row in losses], [row.tokens for row in losses])


def paired_loss_difference(first: Sequence[AnswerLoss], second: Sequence[AnswerLoss]) -> Mean:
    """Return the loss per token of `first` minus that of `second`, with its standard error over examples, paired by example.

    Raises:
        EvaluationError: there are no examples, or the two have different examples or answer tokens.
    """
    if [(row.id, row.tokens) for row in first] != [(row.id, row.tokens) for row in second]:
        raise EvaluationError(
            "two lists of answer losses have different examples", field="losses", value=(len(first), len(second)),
            next_step="compute both on the same examples and tokenizer",
        )  # fmt: skip
    return _ratio([a.loss - b.loss for a, b in zip(first, second, strict=True)], [row.tokens for row in first])


def _ratio(sums: Sequence[float], counts: Sequence[int]) -> Mean:
    """Return Σ sums ÷ Σ counts and its standard error by linearisation (Cochran 1977, § 2.11)."""
    if not sums:
        raise EvaluationError("there are no examples to average", field="losses", next_step="pass at least one example")
    total = sum(counts)
    value = math.fsum(sums) / total
    residuals = math.fsum((s - value * c) ** 2 for s, c in zip(sums, counts, strict=True))
    correction = len(sums) / (len(sums) - 1) if len(sums) > 1 else 1.0
    return Mean(value, math.sqrt(correction * residuals) / total)
