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
    return _embeddings(backbone, block, seed, text_rows.mean(dim=0), text_rows.norm(dim=1).mean())


@torch.no_grad()
def copied_embeddings(backbone: Backbone, block: ThinkingBlock, seed: int, embedding: Tensor) -> Tensor:
    """Return initial embeddings `[R, D]` (float32): one embedding `[D]` plus seeded noise, each at the norm of that embedding.

    The end token of a block before the answer is that of `initial_embeddings`.
    """
    embedding = embedding.float().cpu()
    return _embeddings(backbone, block, seed, embedding, embedding.norm())


def prompt_ids(backbone: Backbone) -> list[int]:
    """Return the ids of a prompt with one question about one clip, whose placeholder is not expanded."""
    prompt = backbone.tokenizer.apply_chat_template(backbone.messages("?"), add_generation_prompt=True, tokenize=False)
    ids: list[int] = backbone.tokenizer(prompt, add_special_tokens=False)["input_ids"]
    return ids


def _embeddings(backbone: Backbone, block: ThinkingBlock, seed: int, mean: Tensor, norm: Tensor) -> Tensor:
    """Return `mean` `[D]` plus noise for each id of the block, scaled to `norm`; the noise is relative to `norm` over √D."""
    weight: Tensor = backbone.embedding.weight
    noise = torch.randn((len(block.trainable_token_ids), len(mean)), generator=make_generator("rows", seed))
    initial = mean + block.row_noise * norm / len(mean) ** 0.5 * noise
    initial = initial * (norm / initial.norm(dim=1, keepdim=True).clamp_min(1e-12))
    if block.placement == "before_answer":
        ids = prompt_ids(backbone)
        before = ids[ids.index(block.start_id) - 1]
        initial[block.trainable_token_ids.index(block.end_id)] = weight[before].float().cpu()
    embeddings: Tensor = initial.to(weight.device)
    return embeddings


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
