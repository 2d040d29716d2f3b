"""Warm start: the trainable tokens are fitted so that the block changes the base's output distribution least, before the training."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from coat_core.backbones.base import Batch
from coat_core.errors import NonFiniteError
from coat_core.thinking.block import ThinkingBlock
from coat_core.thinking.losses import answer_loss
from coat_core.thinking.model import ThinkingModel

Batches = Sequence[tuple[Batch, Sequence[Tensor]]]
"""Batches with the audio embeddings `[A, D]` of each row."""
_MAX_GRADIENT_NORM = 1.0
_POSITIONS = 256
"""Positions whose logits are computed at once, which bounds the memory with a large vocabulary."""


@dataclass(frozen=True)
class WarmStart:
    """The result of a warm start.

    Attributes:
        steps: number of optimizer steps.
        learning_rate: learning rate of the first step.
        before: Kullback-Leibler divergence of the model with the block from the base without it, nats per position, before the first step.
        after: the same after the last step.
        answer_loss: answer loss per token (nats) after the last step; None if no row has an answer.
    """

    steps: int
    learning_rate: float
    before: float
    after: float
    answer_loss: float | None

    def to_json(self) -> dict[str, Any]:
        """Return the result as JSON values."""
        return asdict(self)


def warm_start(model: ThinkingModel, batches: Batches, steps: int, learning_rate: float) -> WarmStart:
    """Train the trainable tokens alone, in place, towards the base's distribution without the block.

    The loss is KL(base without block ‖ model with block) of the next token, averaged over the positions from the block's end token to
    the end of the text; the end token corresponds to the position before the block in the base. It needs no answers. LoRA must still be
    the identity (as in a new model). AdamW without weight decay; the learning rate falls linearly to zero; step i uses batch
    i modulo the number of batches. The result depends on nothing else.

    Args:
        model: a new model with a block.
        batches: training batches, with or without answers.
        steps: number of optimizer steps, at least 1.
        learning_rate: learning rate of the first step.

    Raises:
        BackboneError: a row does not contain the block.
        NonFiniteError: the divergence is not finite.
    """
    block = _block(model)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    tokens = model.trainable_tokens
    with evaluation_mode(model):
        with torch.no_grad():
            bases = [_selected(model, block.remove_from(batch), audio, _base_positions(block, batch)) for batch, audio in batches]
        before = _mean_divergence(model, batches, bases)
        try:
            for parameter in trained:
                parameter.requires_grad_(parameter is tokens)
            optimizer = torch.optim.AdamW([tokens], lr=learning_rate, weight_decay=0.0)
            for step in range(steps):
                index = step % len(batches)
                loss = _divergence(model, *batches[index], bases[index]) / len(bases[index])
                _check_finite(float(loss.detach()), f"step {step + 1}")
                loss.backward()  # type: ignore[no-untyped-call]
                nn.utils.clip_grad_norm_([tokens], _MAX_GRADIENT_NORM)
                optimizer.param_groups[0]["lr"] = learning_rate * (1 - step / steps)
                optimizer.step()
                optimizer.zero_grad()
        finally:
            for parameter in trained:
                parameter.requires_grad_(True)
        after = _mean_divergence(model, batches, bases)
    return WarmStart(steps, learning_rate, before, after, answer_loss_per_token(model, batches))


@torch.no_grad()
def answer_loss_per_token(
    model: ThinkingModel, batches: Iterable[tuple[Batch, Sequence[Tensor]]], *, with_block: bool = True
) -> float | None:
    """Return the answer loss per token (nats), with or without the block and without dropout; None if no row has an answer."""
    total, tokens = 0.0, 0
    with evaluation_mode(model):
        for batch, audio in batches:
            used = batch if with_block else _block(model).remove_from(batch)
            states = model.final_states(used, audio)
            total += float(answer_loss(model.backbone, states, used.input_ids, used.answer_mask))
            tokens += int(used.answer_mask[:, 1:].sum())
    return total / tokens if tokens else None


@contextmanager
def evaluation_mode(model: ThinkingModel) -> Iterator[None]:
    """Disable dropout within the context; gradient checkpointing stays as it is."""
    training = [module for module in model.modules() if module.training]
    layers = [layer for layer in model.backbone.layers if layer.training]
    model.eval()
    try:
        # A decoder layer recomputes its activations only in training mode; the dropout is in its parts, or in their functions.
        for layer in layers:
            layer.training = True
        yield
    finally:
        for module in training:
            module.training = True


def _block(model: ThinkingModel) -> ThinkingBlock:
    assert model.block is not None, "arms without a block have no trainable tokens"
    return model.block


def _selected(model: ThinkingModel, batch: Batch, audio: Sequence[Tensor], positions: Tensor) -> Tensor:
    """Return the states after the final norm at positions `[B, L]` (bool), as `[n, D]`."""
    states = model.final_states(batch, audio)
    return states[positions.to(states.device)]


def _block_positions(block: ThinkingBlock, batch: Batch) -> Tensor:
    """Return the positions `[B, L]` of the block's end token and of the text after it."""
    end = block.positions(batch.input_ids)[:, -1:] + 1
    position = torch.arange(batch.input_ids.shape[1], device=end.device)
    return (position[None] >= end) & batch.attention_mask.to(end.device).bool()


def _base_positions(block: ThinkingBlock, batch: Batch) -> Tensor:
    """Return the corresponding positions of the batch without the block: from the one before the block."""
    before = block.positions(batch.input_ids)[:, :1] - 2
    mask = block.remove_from(batch).attention_mask
    return (torch.arange(mask.shape[1], device=before.device)[None] >= before) & mask.to(before.device).bool()


def _divergence(model: ThinkingModel, batch: Batch, audio: Sequence[Tensor], base: Tensor) -> Tensor:
    """Return the sum over positions of the divergence from the base, whose states are `[n, D]`."""
    states = _selected(model, batch, audio, _block_positions(_block(model), batch))

    def part(base: Tensor, states: Tensor) -> Tensor:
        target, found = (F.log_softmax(model.backbone.answer_logits(each).float(), dim=-1) for each in (base, states))
        return F.kl_div(found, target, reduction="sum", log_target=True)

    parts = [
        checkpoint(
            part, base[start : start + _POSITIONS], states[start : start + _POSITIONS], use_reentrant=False, preserve_rng_state=False
        )
        for start in range(0, len(base), _POSITIONS)
    ]
    return torch.stack(parts).sum()


@torch.no_grad()
def _mean_divergence(model: ThinkingModel, batches: Batches, bases: Sequence[Tensor]) -> float:
    total = sum(float(_divergence(model, batch, audio, base)) for (batch, audio), base in zip(batches, bases, strict=True))
    mean = total / sum(map(len, bases))
    _check_finite(mean, "measurement")
    return mean


def _check_finite(value: float, where: str) -> None:
    if not torch.isfinite(torch.tensor(value)):
        raise NonFiniteError(
            f"the divergence of the warm start is not finite ({where})",
            field="thinking.warm_start_steps",
            value=value,
            next_step="lower training.rows_learning_rate, or set thinking.warm_start_steps: 0",
        )
