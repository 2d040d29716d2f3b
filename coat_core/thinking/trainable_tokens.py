"""Trainable tokens: the initial embeddings of the block's ids, and the hook that applies them to the embedding's output."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from coat_core.backbones.base import Backbone
from coat_core.seeding import make_generator
from coat_core.thinking.block import ThinkingBlock


@torch.no_grad()
def initial_embeddings(backbone: Backbone, block: ThinkingBlock, seed: int) -> Tensor:
    """Return initial embeddings `[R, D]` (float32): the mean text embedding plus seeded noise, scaled to the mean norm.

    In a block before the answer, the end token is initialised with the embedding of the token before the block (the last of
    the assistant's header), so that the answer follows the same embedding as in the base.

    The spare rows of the base's matrix are not used: they are untrained and often nearly zero.
    """
    weight: Tensor = backbone.embedding.weight
    tokenizer = backbone.tokenizer
    special = {*tokenizer.added_tokens_decoder, *block.trainable_token_ids}
    text = sorted({index for index in tokenizer.get_vocab().values() if index not in special and index < weight.shape[0]})
    text_rows = weight[torch.tensor(text, device=weight.device)].float().cpu()
    norm = text_rows.norm(dim=1).mean()
    noise = torch.randn((len(block.trainable_token_ids), text_rows.shape[1]), generator=make_generator("rows", seed))
    initial = text_rows.mean(dim=0) + block.row_noise * norm / text_rows.shape[1] ** 0.5 * noise
    initial = initial * (norm / initial.norm(dim=1, keepdim=True).clamp_min(1e-12))
    if block.placement == "before_answer":
        initial[block.trainable_token_ids.index(block.end_id)] = weight[_token_before(backbone, block)].float().cpu()
    embeddings: Tensor = initial.to(weight.device)
    return embeddings


def _token_before(backbone: Backbone, block: ThinkingBlock) -> int:
    """Return the id of the token before the block in a generation prompt."""
    prompt = backbone.tokenizer.apply_chat_template(backbone.messages("?"), add_generation_prompt=True, tokenize=False)
    ids: list[int] = backbone.tokenizer(prompt, add_special_tokens=False)["input_ids"]
    return ids[ids.index(block.start_id) - 1]


class TrainableTokensHook:
    """Replaces the embedding's output at the ids of the trainable tokens; the matrix itself is neither changed nor copied.

    PEFT's trainable-token layer copies the whole matrix at every call, which makes decoding with a vocabulary of 152k several
    times slower. Both give equal results (tested).

    Args:
        token_ids: ids of the trainable tokens, in ascending order.
        embeddings: returns the embeddings `[R, D]`. It is called at every forward, because a trainer may replace the tensor of
            a parameter (FSDP).
    """

    def __init__(self, token_ids: Sequence[int], embeddings: Callable[[], Tensor]) -> None:
        self.token_ids, self.embeddings = tuple(token_ids), embeddings
        self._ids: dict[torch.device, Tensor] = {}
        self._handle: Any = None

    def attach(self, embedding: nn.Embedding) -> None:
        """Register the forward hook."""
        self._handle = embedding.register_forward_hook(self)

    def detach(self) -> None:
        """Remove the forward hook."""
        if self._handle is not None:
            self._handle.remove()
            self._handle = None

    def __call__(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        """Return the embedding's output with the trainable embeddings at their ids (a forward hook)."""
        ids = inputs[0]
        # Cached for each device: a copy from the CPU at every decoded token would synchronise with the GPU.
        token_ids = self._ids.get(ids.device)
        if token_ids is None:
            token_ids = self._ids[ids.device] = torch.tensor(self.token_ids, device=ids.device)
        index = torch.searchsorted(token_ids, ids).clamp_max(len(self.token_ids) - 1)
        found = token_ids[index] == ids
        return torch.where(found[..., None], self.embeddings().to(output)[index], output)
