"""Knock-out: the answer loss when question and answer are cut off from the thinking block, the audio, or both."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from coat_core.backbones.base import Backbone, Batch
from coat_core.corpus.examples import Example
from coat_core.evaluation.answer_losses import Mean, answer_losses, loss_per_token, paired_loss_difference
from coat_core.thinking.block import ThinkingBlock
from coat_core.thinking.cuts import Part, blocked_pairs
from coat_core.training.dataset import AudioEmbeddingCache

CUTS: dict[str, tuple[Part, ...]] = {"block": ("block",), "audio": ("audio",), "both": ("block", "audio")}
"""What the readers cannot attend to, by the name of the condition."""


def knock_out(
    backbone: Backbone, block: ThinkingBlock, examples: Sequence[Example], corpus: Path, embeddings: AudioEmbeddingCache
) -> dict[str, Any]:
    """Return the answer loss per token (nats) of each condition, and its paired difference from the loss with nothing cut off.

    Args:
        backbone: the release's model.
        block: its thinking block.
        examples: labelled examples.
        corpus: folder that audio paths are relative to.
        embeddings: cache of the audio tower's outputs.

    Returns:
        `loss` (`value`, `error`) of the condition `none`, and for each condition of `CUTS` its `loss` and `cost` (difference), with
        standard errors over examples.
    """
    measure = partial(answer_losses, backbone, examples, corpus, embeddings=embeddings)
    untouched = measure()
    result: dict[str, Any] = {"none": {"loss": _mean(loss_per_token(untouched))}}
    for name, parts in CUTS.items():
        cut = measure(blocked=_pairs(backbone, block, parts))
        result[name] = {"loss": _mean(loss_per_token(cut)), "cost": _mean(paired_loss_difference(cut, untouched))}
    return result


def _pairs(backbone: Backbone, block: ThinkingBlock, parts: Sequence[Part]) -> Callable[[Batch], Tensor]:
    return lambda batch: blocked_pairs(batch, block, backbone.audio_token_id, parts)


def _mean(mean: Mean) -> dict[str, float]:
    return {"value": round(mean.value, 6), "error": round(mean.error, 6)}
