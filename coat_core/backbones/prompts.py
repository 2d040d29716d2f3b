"""Tokenization of queries into padded batches, through the tokenizer's chat template."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from coat_core.backbones.base import Batch, Query
from coat_core.errors import BackboneError


def user_messages(text: str) -> list[dict[str, Any]]:
    """Return the stock chat messages of one question about one clip (older published templates require `audio_url`)."""
    return [{"role": "user", "content": [{"type": "audio", "audio_url": ""}, {"type": "text", "text": text}]}]


def prompt_ids(tokenizer: Any, query: Query, audio_token: str, tokens: int) -> list[int]:
    """Return the ids of the generation prompt, its placeholder expanded to `tokens` placeholders.

    Raises:
        BackboneError: the prompt does not contain exactly one placeholder.
    """
    text = tokenizer.apply_chat_template(user_messages(query.text), add_generation_prompt=True, tokenize=False)
    found = text.count(audio_token)
    if found != 1:
        raise BackboneError(
            f"{_name(query)}: a prompt must contain exactly one audio, this one has {found} placeholders {audio_token}",
            field="text",
            value=query.text[:80],
            next_step="combine the sounds into one clip, and remove the placeholder from the question",
        )
    audio_id = tokenizer.convert_tokens_to_ids(audio_token)
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    at = ids.index(audio_id)
    return ids[:at] + [audio_id] * tokens + ids[at + 1 :]


def answer_ids(tokenizer: Any, query: Query, audio_token: str, end_of_turn: str) -> list[int]:
    """Return the ids of answer + end of turn.

    Raises:
        BackboneError: the answer is empty or contains the audio placeholder.
    """
    if query.answer is None or not query.answer.strip() or audio_token in query.answer:
        message = f"{_name(query)}: the answer is empty or contains the audio placeholder"
        raise BackboneError(message, field="answer", value=query.answer, allowed="text without placeholder")
    ids: list[int] = tokenizer(query.answer + end_of_turn, add_special_tokens=False)["input_ids"]
    return ids


def encode_queries(
    tokenizer: Any,
    queries: Sequence[Query],
    *,
    audio_token: str,
    audio_tokens: Callable[[Query], int],
    end_of_turn: str,
    max_positions: int,
    generation: bool,
) -> Batch:
    """Tokenize queries into one padded batch, without truncation.

    Args:
        tokenizer: the tokenizer with the template.
        queries: the rows.
        audio_token: the placeholder's text.
        audio_tokens: returns the number of audio tokens of a query's clip; raises BackboneError for an invalid clip.
        end_of_turn: the text that ends an answer.
        max_positions: the language model's longest sequence.
        generation: True: prompts only, left-padded; False: prompts and answers, right-padded.

    Raises:
        BackboneError: an example is too long or invalid; the message names it.
    """
    if not queries:
        raise BackboneError("a batch needs at least one query", field="queries", value=0)
    rows: list[tuple[list[int], list[int]]] = []
    for query in queries:
        prompt = prompt_ids(tokenizer, query, audio_token, audio_tokens(query))
        answer = [] if generation else answer_ids(tokenizer, query, audio_token, end_of_turn)
        if len(prompt) + len(answer) > max_positions:
            raise BackboneError(
                f"{_name(query)}: too long for the language model",
                field="tokens",
                value=len(prompt) + len(answer),
                allowed=f"at most {max_positions}",
                next_step="shorten the clip, the question or the thinking block; prompts are never truncated",
            )
        rows.append((prompt, answer))
    length = max(len(prompt) + len(answer) for prompt, answer in rows)
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.convert_tokens_to_ids(end_of_turn)
    input_ids = torch.full((len(rows), length), pad)
    attention_mask = torch.zeros(len(rows), length, dtype=torch.long)
    answer_mask = torch.zeros(len(rows), length, dtype=torch.bool)
    for row, (prompt, answer) in enumerate(rows):
        ids = torch.tensor(prompt + answer)
        start = length - len(ids) if generation else 0
        input_ids[row, start : start + len(ids)] = ids
        attention_mask[row, start : start + len(ids)] = 1
        answer_mask[row, start + len(prompt) : start + len(ids)] = True
    return Batch(input_ids, attention_mask, answer_mask, tuple(queries))


def _name(query: Query) -> str:
    return query.name or f"audio {query.key[:12]}"
