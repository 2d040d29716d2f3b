"""Tokenization of queries into padded batches, through the tokenizer's chat template. User text stays text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from coat_core.backbones.base import Batch, Query
from coat_core.backbones.user_text import encode_rendered, encode_text, split_rendered, stand_in
from coat_core.corpus.normal_form import is_blank
from coat_core.errors import BackboneError


def user_messages(text: str) -> list[dict[str, Any]]:
    """Return the stock chat messages of one question about one clip (older published templates require `audio_url`)."""
    return [{"role": "user", "content": [{"type": "audio", "audio_url": ""}, {"type": "text", "text": text}]}]


def prompt_ids(tokenizer: Any, query: Query, audio_token: str, tokens: int) -> list[int]:
    """Return the ids of the generation prompt, its placeholder expanded to `tokens` placeholders.

    The question is encoded as text: the string of a control token in it does not become a control id.

    Raises:
        BackboneError: the question is blank or not valid Unicode, or the template does not write one placeholder and one question.
    """
    _check_text(query, "text", query.text)
    messages = user_messages(stand_in(query.text))
    rendered = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    parts = split_rendered(rendered, query.text)
    if parts is None:
        raise BackboneError(
            f"{_name(query)}: the chat template does not write the question unchanged and once",
            field="chat_template",
            value=rendered[-200:],
            next_step="fix the base's template",
        )
    audio_id = tokenizer.convert_tokens_to_ids(audio_token)
    ids = encode_rendered(tokenizer, *parts)
    if (found := ids.count(audio_id)) != 1:
        raise BackboneError(
            f"{_name(query)}: a prompt must contain exactly one audio, this template writes {found} placeholders {audio_token}",
            field="chat_template",
            value=rendered[-200:],
            next_step="fix the base's template",
        )
    at = ids.index(audio_id)
    return ids[:at] + [audio_id] * tokens + ids[at + 1 :]


def answer_ids(tokenizer: Any, query: Query, audio_token: str, end_of_turn: str) -> list[int]:
    """Return the ids of answer + end of turn. The answer is encoded as text, so the only control id is the end of turn.

    Raises:
        BackboneError: the answer is blank or not valid Unicode.
    """
    _check_text(query, "answer", query.answer)
    return [*encode_text(tokenizer, query.answer or ""), int(tokenizer.convert_tokens_to_ids(end_of_turn))]


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


def _check_text(query: Query, field: str, text: str | None) -> None:
    noun = "question" if field == "text" else field
    if text is None or is_blank(text):
        raise BackboneError(
            f"{_name(query)}: the {noun} is blank",
            field=field,
            value=text,
            allowed="text with a visible character",
            next_step=f"write the {noun}",
        )
    if bad := next((character for character in text if "\ud800" <= character <= "\udfff"), None):
        raise BackboneError(
            f"{_name(query)}: the {noun} is not valid Unicode: it contains half of a surrogate pair",
            field=field,
            value=f"U+{ord(bad):04X} at character {text.index(bad)}",
            allowed="text without U+D800 to U+DFFF",
            next_step="save the file as UTF-8 again",
        )
