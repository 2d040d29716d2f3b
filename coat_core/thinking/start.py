"""The start of the trainable tokens: of several initial embeddings, the one that changes the base's answers least."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from coat_core.backbones.base import Backbone
from coat_core.errors import NonFiniteError, TrainingError
from coat_core.thinking.block import ThinkingBlock
from coat_core.thinking.model import ThinkingModel
from coat_core.thinking.sharding import gathered
from coat_core.thinking.trainable_tokens import copied_embeddings, initial_embeddings, prompt_ids
from coat_core.thinking.warm_start import Batches, WarmStart, answer_loss_per_token

AUTO = "auto"
HIGH_COST = 0.1
"""Increase of the answer loss (nats per token) above which a start is reported with a warning."""


@dataclass(frozen=True)
class Start:
    """The initial embeddings of the trainable tokens, and what the block costs before the training.

    Attributes:
        name: the chosen candidate.
        losses: answer loss per token (nats) of the base with the block, by candidate.
        without_block: answer loss per token of the base without the block, on the same examples.
        items: number of examples.
        warm_start: the warm start that followed, or None.
    """

    name: str
    losses: Mapping[str, float]
    without_block: float
    items: int = 0
    warm_start: WarmStart | None = field(default=None)

    @property
    def cost(self) -> float:
        """The increase of the answer loss by the block with the chosen candidate, before the warm start."""
        return self.losses[self.name] - self.without_block

    def summary(self) -> str:
        """Return the choice and its cost as text, with a second line if the cost is high."""
        others = ", ".join(f"{name} {loss:.3f}" for name, loss in self.losses.items() if name != self.name)
        text = (
            f"start of the thinking block: {self.name}, answer loss {self.losses[self.name]:.3f} on {self.items} examples, "
            f"{self.cost:+.3f} against no block ({others})"
        )
        final = self.cost
        if self.warm_start is not None:
            warm = self.warm_start
            text += f"; warm start of {warm.steps} steps: divergence from the base {warm.before:.3f} to {warm.after:.3f}"
            if warm.answer_loss is not None:
                final = warm.answer_loss - self.without_block
                text += f", answer loss {warm.answer_loss:.3f}, {final:+.3f} against no block"
        if final > HIGH_COST:
            advice = "fewer thinking.tokens" if self.name == min(self.losses, key=self.losses.__getitem__) else "thinking.start: auto"
            text += (
                f"\nwarning: the thinking block raises the answer loss by {final:.3f} before the training (more than {HIGH_COST}); "
                f"try {advice}, or more thinking.warm_start_steps"
            )
        return text

    def to_json(self) -> dict[str, Any]:
        """Return the start as JSON values, with its cost."""
        return {
            "name": self.name,
            "losses": dict(self.losses),
            "without_block": self.without_block,
            "cost": self.cost,
            "items": self.items,
            "warm_start": self.warm_start.to_json() if self.warm_start else None,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Start:
        """Parse what `to_json` returned."""
        warm = value["warm_start"]
        return cls(value["name"], value["losses"], value["without_block"], value["items"], WarmStart(**warm) if warm else None)


def measure_starts(model: ThinkingModel, batches: Batches, requested: str, *, seed: int) -> Start:
    """Measure every candidate on some examples and set the model's trainable tokens, in place, to the chosen one.

    Each candidate is one embedding at its own norm, which all trainable tokens get with the block's seeded noise; `mean_text` is
    `initial_embeddings`. The result depends on the block, the batches and the seed only, so it is the same for all arms with a block.

    Args:
        model: a new model with a block; LoRA is still the identity, so the model is the base.
        batches: training batches with answers.
        requested: `thinking.start`: a candidate's name, or `auto` for that with the lowest answer loss.
        seed: seed of the trial, for the noise.

    Raises:
        BackboneError: a row does not contain the block.
        TrainingError: the requested candidate does not exist for this base, or no row has an answer.
        NonFiniteError: an answer loss is not finite.
    """
    assert model.block is not None, "arms without a block have no trainable tokens"
    with gathered(model.backbone.embedding):
        found = candidates(model.backbone, model.block, batches, seed)
    if requested != AUTO and requested not in found:
        raise TrainingError(
            "this base has no such start of the trainable tokens",
            field="thinking.start",
            value=requested,
            allowed=[AUTO, *found],
            next_step=f"set thinking.start: {AUTO}",
        )
    without_block = _measured("no block", answer_loss_per_token(model, batches, with_block=False))
    losses: dict[str, float] = {}
    for name, embeddings in found.items():
        _set(model, embeddings)
        losses[name] = _measured(name, answer_loss_per_token(model, batches))
    chosen = requested if requested != AUTO else min(losses, key=losses.__getitem__)
    _set(model, found[chosen])
    return Start(chosen, losses, without_block, sum(batch.input_ids.shape[0] for batch, _ in batches))


def candidates(backbone: Backbone, block: ThinkingBlock, batches: Batches, seed: int) -> dict[str, Tensor]:
    """Return the initial embeddings `[R, D]` of each candidate that the base has, by name.

    `audio_end`: the token that closes the audio in the template (absent if there is none); `newline` (absent if the tokenizer has no
    single token for it); `end_of_turn`; `mean_audio`: the mean of all audio embeddings of the batches; `mean_text`.
    """
    tokenizer = backbone.tokenizer
    newline: list[int] = tokenizer("\n", add_special_tokens=False)["input_ids"]
    copied = {
        "audio_end": audio_end_id(backbone, block),
        "newline": newline[0] if len(newline) == 1 else None,
        "end_of_turn": int(tokenizer.convert_tokens_to_ids(backbone.end_of_turn)),
    }
    weight = backbone.embedding.weight.detach()
    vectors = {name: weight[index] for name, index in copied.items() if index is not None}
    clips = [clip for _, audio in batches for clip in audio]
    vectors["mean_audio"] = torch.stack([clip.detach().cpu().double().sum(dim=0) for clip in clips]).sum(dim=0) / sum(map(len, clips))
    found = {name: copied_embeddings(backbone, block, seed, vector) for name, vector in vectors.items()}
    return {**found, "mean_text": initial_embeddings(backbone, block, seed)}


def audio_end_id(backbone: Backbone, block: ThinkingBlock) -> int | None:
    """Return the id of the special token that closes the audio in the chat template, e.g. `<|audio_eos|>`; None without one."""
    tokenizer = backbone.tokenizer
    ids = [index for index in prompt_ids(backbone) if index not in block.trainable_token_ids]
    after = ids[ids.index(backbone.audio_token_id) + 1]
    special = {*tokenizer.added_tokens_decoder} - {int(tokenizer.convert_tokens_to_ids(backbone.end_of_turn))}
    return after if after in special else None


@torch.no_grad()
def _set(model: ThinkingModel, embeddings: Tensor) -> None:
    model.trainable_tokens.copy_(embeddings)


def _measured(name: str, loss: float | None) -> float:
    if loss is None:
        raise TrainingError(
            "the start of the trainable tokens is measured on labelled examples, and there are none",
            field="thinking.start_items",
            value=0,
            next_step="label some training examples",
        )
    if not math.isfinite(loss):
        raise NonFiniteError(
            f"the base's answer loss is not finite ({name})",
            field="thinking.start",
            value=loss,
            next_step="check the base checkpoint and its dtype",
        )
    return loss
