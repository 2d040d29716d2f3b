"""Small tokenizers of the published type: byte-level BPE with Qwen's pre-tokenizer and special tokens."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

MERGED_TOKENS = 640
"""Maximum number of merges: enough to encode each word of a few hundred questions and answers as one or two tokens."""


def make_tokenizer(texts: Sequence[str], special_tokens: Sequence[str], named_tokens: Mapping[str, str]) -> Any:
    """Train a `Qwen2Tokenizer`.

    Args:
        texts: training texts; any other text is encoded byte by byte.
        special_tokens: special tokens in the order of their ids, which follow the trained tokens' ids.
        named_tokens: extra attributes of the tokenizer, name → special token.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import AddedToken, Qwen2Tokenizer

    blank = Qwen2Tokenizer(vocab={"<|endoftext|>": 0}, merges=[])
    trained = Tokenizer(models.BPE())
    trained.normalizer = blank.backend_tokenizer.normalizer
    trained.pre_tokenizer = blank.backend_tokenizer.pre_tokenizer
    trainer = trainers.BpeTrainer(
        vocab_size=256 + MERGED_TOKENS, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), special_tokens=[], show_progress=False
    )
    trained.train_from_iterator([*_CHAT, *texts], trainer=trainer)
    model = json.loads(trained.to_str())["model"]
    vocabulary = {**model["vocab"], **{token: len(model["vocab"]) + i for i, token in enumerate(special_tokens)}}
    tokenizer = Qwen2Tokenizer(
        vocab=vocabulary, merges=[tuple(pair) for pair in model["merges"]], eos_token="<|im_end|>", extra_special_tokens=dict(named_tokens)
    )
    tokenizer.add_tokens([AddedToken(token, special=True, normalized=False) for token in special_tokens], special_tokens=True)
    return tokenizer


_CHAT = ("system\nYou are a helpful assistant.", "user\n", "assistant\n", "Audio 1: ", "Choices: ")
