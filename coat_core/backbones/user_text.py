"""Token ids of a chat template's own text and of user text, in which a control token's string is ordinary text.

A control token is any added token of the tokenizer: end of turn, placeholders, the thinking block, reserved tokens. `split_special_tokens`
of transformers covers only those that are marked as special, so user text goes through normaliser, pre-tokenizer and model of the
tokenizer without its added vocabulary.
"""

from __future__ import annotations

from typing import Any

_SENTINEL = '\ue000The <user\'s> "text" & ß\ue001'
"""A text in place of the user's: a template that escapes text or changes its case changes this text."""


def split_rendered(rendered: str, text: str) -> tuple[str, str, str] | None:
    """Split a conversation, rendered with `stand_in(text)`, at the user's text.

    Returns:
        The template's text before it, the user's text, the template's text after it. White space around the text belongs to the
        template if the template changed it (`trim`). None: the template does not write the text exactly once.
    """
    for inner, given in ((stand_in(text), text), (_SENTINEL, text.strip())):
        if rendered.count(inner) == 1:
            before, _, after = rendered.partition(inner)
            return before, given, after
    return None


def stand_in(text: str) -> str:
    """Return the text that replaces the user's text in a template: it has the same white space at both ends."""
    start = len(text) - len(text.lstrip())
    return text[:start] + _SENTINEL + text[len(text.rstrip()) :]


def control_ids(tokenizer: Any) -> frozenset[int]:
    """Return the ids of all added tokens, special or not."""
    return frozenset(tokenizer.get_added_vocab().values()) | frozenset(tokenizer.all_special_ids)


def encode_text(tokenizer: Any, text: str) -> list[int]:
    """Return the ids of a text without control ids; equal to those of the tokenizer for a text without a control token's string."""
    backend = tokenizer.backend_tokenizer
    normal = text if backend.normalizer is None else backend.normalizer.normalize_str(text)
    words = [(normal, None)] if backend.pre_tokenizer is None else backend.pre_tokenizer.pre_tokenize_str(normal)
    return [token.id for word, _ in words for token in backend.model.tokenize(word)]


def encode_rendered(tokenizer: Any, before: str, text: str, after: str) -> list[int]:
    """Return the ids of template text, user text and template text.

    The tokenizer splits a text at its control tokens before it does anything else. The user's text is therefore encoded together with
    the template's text between the nearest control tokens, and merges across the borders stay as they are.
    """
    control = control_ids(tokenizer)
    ids, spans = _encode(tokenizer, before)
    last = max((at for at, token in enumerate(ids) if token in control), default=-1)
    head, start = ids[: last + 1], spans[last][1] if last >= 0 else 0
    ids, spans = _encode(tokenizer, after)
    first = next((at for at, token in enumerate(ids) if token in control), len(ids))
    tail, end = ids[first:], spans[first][0] if first < len(ids) else len(after)
    return head + encode_text(tokenizer, before[start:] + text + after[:end]) + tail


def _encode(tokenizer: Any, text: str) -> tuple[list[int], list[tuple[int, int]]]:
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    return encoded["input_ids"], encoded["offset_mapping"]
