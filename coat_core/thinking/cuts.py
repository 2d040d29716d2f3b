"""Pairs of positions that an attention mask blocks: for knock-outs and for the bottleneck of a training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from coat_core.backbones.base import Batch
from coat_core.thinking.block import ThinkingBlock

Part = Literal["block", "audio"]


def blocked_pairs(batch: Batch, block: ThinkingBlock, audio_token_id: int, parts: Sequence[Part]) -> Tensor:
    """Return the pairs of positions `[B, L, L]` (query, key) that cut question and answer off from the block, the audio, or both.

    The readers (queries) are all positions after the audio that are not in the block: the question, the answer, and the control tokens
    between them. The token that closes the audio is a reader too. Otherwise it would pass the audio on. The block itself is no reader,
    so it can always attend to the audio. Its end token is an exception in a block before the answer: it predicts the first token of the
    answer, so it is a reader and is not cut off.

    Args:
        batch: prompts with answers.
        block: the thinking block.
        audio_token_id: id of the audio placeholder.
        parts: what is cut off: `block` (start, think and end tokens), `audio`, or both.
    """
    ids = batch.input_ids
    is_audio = ids == audio_token_id
    in_block = torch.isin(ids, torch.tensor(block.trainable_token_ids, device=ids.device))
    predicts_answer = torch.cat([batch.answer_mask[:, 1:], torch.zeros_like(batch.answer_mask[:, :1])], dim=1).to(ids.device)
    readers = (is_audio.cumsum(1) > 0) & ~is_audio & (~in_block | predicts_answer)
    keys = torch.zeros_like(is_audio)
    for part, there in {"block": in_block, "audio": is_audio}.items():
        if part in parts:
            keys = keys | there
    return readers[:, :, None] & (keys & ~readers)[:, None, :]
