"""The block's embedding rows: how they start, and how they act on the embedding's output."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from coat_core.backbones.base import Backbone
from coat_core.seeding import make_generator
from coat_core.thinking.block import ThinkingBlock


@torch.no_grad()
def initial_rows(backbone: Backbone, block: ThinkingBlock, seed: int) -> Tensor:
    """Return the start of the rows `[R, D]` (float32): the mean text embedding plus seeded noise, at the mean row norm.

    The end token of a block before the answer starts as a copy of the token that the block comes after, the last of the
    assistant's header: the answer begins behind the same embedding as it did in the base, which has learnt to speak there.

    A spare row holds whatever the checkpoint left there, often nearly zero, so it is never used as a start.
    """
    weight: Tensor = backbone.embedding.weight
    tokenizer = backbone.tokenizer
    special = {*tokenizer.added_tokens_decoder, *block.row_ids}
    text = sorted({index for index in tokenizer.get_vocab().values() if index not in special and index < weight.shape[0]})
    rows = weight[torch.tensor(text, device=weight.device)].float().cpu()
    norm = rows.norm(dim=1).mean()
    noise = torch.randn((len(block.row_ids), rows.shape[1]), generator=make_generator("rows", seed))
    start = rows.mean(dim=0) + block.row_noise * norm / rows.shape[1] ** 0.5 * noise
    start = start * (norm / start.norm(dim=1, keepdim=True).clamp_min(1e-12))
    if block.placement == "before_answer":
        start[block.row_ids.index(block.end_id)] = weight[_token_before(backbone, block)].float().cpu()
    placed: Tensor = start.to(weight.device)
    return placed


def _token_before(backbone: Backbone, block: ThinkingBlock) -> int:
    """Return the id of the token that stands before the block in a generation prompt."""
    prompt = backbone.tokenizer.apply_chat_template(backbone.messages("?"), add_generation_prompt=True, tokenize=False)
    ids: list[int] = backbone.tokenizer(prompt, add_special_tokens=False)["input_ids"]
    return ids[ids.index(block.start_id) - 1]


class RowsHook:
    """Puts rows in the place of the embedding's output at the block's ids; the matrix itself is never touched or copied.

    PEFT's own trainable-token layer copies the whole matrix at every call, which makes decoding at a 152k vocabulary several
    times slower; the two are equal (tested).

    Args:
        row_ids: the block's ids, in ascending order.
        rows: gives the rows `[R, D]`; asked at every call, for a trainer may put other tensors in a parameter's place (FSDP).
    """

    def __init__(self, row_ids: Sequence[int], rows: Callable[[], Tensor]) -> None:
        self.row_ids, self.rows, self.enabled = tuple(row_ids), rows, True
        self._ids: dict[torch.device, Tensor] = {}
        self._handle: Any = None

    def attach(self, embedding: nn.Embedding) -> None:
        """Begin to act."""
        self._handle = embedding.register_forward_hook(self)

    def detach(self) -> None:
        """Cease to act."""
        if self._handle is not None:
            self._handle.remove()
            self._handle = None

    def __call__(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        """Return the embedding's output with rows in place of the block's ids (a forward hook)."""
        if not self.enabled:
            return output
        ids = inputs[0]
        # Kept for each device: a copy from the processor at every decoded token would make a GPU wait.
        row_ids = self._ids.get(ids.device)
        if row_ids is None:
            row_ids = self._ids[ids.device] = torch.tensor(self.row_ids, device=ids.device)
        index = torch.searchsorted(row_ids, ids).clamp_max(len(self.row_ids) - 1)
        held = row_ids[index] == ids
        return torch.where(held[..., None], self.rows().to(output)[index], output)
