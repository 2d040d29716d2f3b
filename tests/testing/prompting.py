"""Tokenizers with a thinking block, and the stock ids of a query, for tests of prompts."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from coat_core.backbones.base import Backbone, Query
from coat_core.backbones.catalogue import load_backbone
from coat_core.settings import ThinkingSettings
from coat_core.thinking.block import ThinkingBlock

PLACEMENTS = ("before_answer", "after_audio")
SAMPLES = 8_000


@cache
def with_block(key: str, base: str, placement: str, rows: str = "shared") -> tuple[Backbone, ThinkingBlock]:
    """Return a backbone with a block of 4 think tokens; the tests that share it do not change it."""
    backbone = load_backbone(key, base)
    return backbone, ThinkingBlock.install(backbone, ThinkingSettings(tokens=4, placement=placement, rows=rows))


def query(text: str, answer: str | None = "dog bark", name: str = "row-7") -> Query:
    return Query("0" * 64, np.full(SAMPLES, 0.01, np.float32), text, answer, name)


def ids_of(backbone: Backbone, text: str, answer: str | None = None) -> tuple[list[int], list[int]]:
    """Return the ids of prompt and answer of a training row, or of a prompt for generation if there is no answer."""
    batch = backbone.encode([query(text, answer)], generation=answer is None)
    is_answer = batch.answer_mask[0]
    return batch.input_ids[0][~is_answer].tolist(), batch.input_ids[0][is_answer].tolist()


def stock_prompt(backbone: Backbone, text: str) -> list[int]:
    """Return the ids of stock `apply_chat_template`, with the placeholder expanded."""
    tokenizer: Any = backbone.tokenizer
    rendered = tokenizer.apply_chat_template(backbone.messages(text), add_generation_prompt=True, tokenize=False)
    placeholder = tokenizer.convert_ids_to_tokens(backbone.audio_token_id)
    rendered = rendered.replace(placeholder, placeholder * backbone.audio_token_count(SAMPLES), 1)
    ids: list[int] = tokenizer(rendered, add_special_tokens=False)["input_ids"]
    return ids
