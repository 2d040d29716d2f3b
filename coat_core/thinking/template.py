"""Rewriting of a chat template so that it writes the thinking block."""

from __future__ import annotations

import json
import re
from typing import Any

from coat_core.backbones.base import Backbone
from coat_core.errors import BackboneError

_QUESTION, _ANSWER, _SECOND = "Which sound is this?", "A bell rings.", "And then?"


def rewrite_template(backbone: Backbone, text: str, placement: str) -> str:
    """Return the backbone's chat template, rewritten so that it writes the block.

    `before_answer`: at the start of every assistant turn and in the generation prompt. `after_audio`: in the user turn, right
    after each audio. The published template is kept unchanged inside the new one, which inserts the block after each anchor
    (assistant header or audio placeholder) of the rendered text. Both anchors are found by rendering.

    Args:
        backbone: backbone whose tokenizer has the template; it is not changed.
        text: the block as text.
        placement: `before_answer` or `after_audio`.

    Raises:
        BackboneError: there is no template, or the rewritten template does not write the block at its positions only.
    """
    tokenizer = backbone.tokenizer
    original = tokenizer.chat_template
    if not isinstance(original, str) or not original:
        raise BackboneError(
            "the base has no single chat template",
            field="chat_template",
            value=type(original).__name__,
            allowed="one Jinja template",
            next_step="add chat_template.jinja to the base folder",
        )
    if text in original:
        raise BackboneError("the chat template already writes this block", field="chat_template", next_step="load the untouched base")
    header = _assistant_header(backbone, original)
    anchor = header if placement == "before_answer" else _audio_anchor(backbone, original)
    written = _wrap(original, anchor, anchor + text)
    _verify(backbone, original, written, anchor, text, placement)
    return written


def conversations(backbone: Backbone) -> list[tuple[list[dict[str, Any]], bool]]:
    """Return sample conversations of one and two turns, each with whether it ends with a generation prompt."""
    first = backbone.messages(_QUESTION)
    reply = [{"role": "assistant", "content": [{"type": "text", "text": _ANSWER}]}]
    second = [{"role": "user", "content": [{"type": "text", "text": _SECOND}]}]
    return [(first, True), (first + reply, False), (first + reply + second, True), (first + reply + second + reply, False)]


def _render(backbone: Backbone, template: str, messages: list[dict[str, Any]], generation: bool) -> str:
    try:
        rendered = backbone.tokenizer.apply_chat_template(
            messages, chat_template=template, tokenize=False, add_generation_prompt=generation
        )
    except Exception as error:  # Jinja has no common class for these errors.
        raise BackboneError(
            f"the chat template cannot be rendered: {error}", field="chat_template", next_step="fix the base's template"
        ) from error
    return str(rendered)


def _assistant_header(backbone: Backbone, template: str) -> str:
    """Return the text that the generation prompt adds, e.g. `<|im_start|>assistant` and a newline."""
    messages = backbone.messages(_QUESTION)
    closed, opened = _render(backbone, template, messages, False), _render(backbone, template, messages, True)
    header = opened[len(closed) :]
    if not opened.startswith(closed) or not header.strip():
        raise BackboneError("the chat template has no generation prompt", field="chat_template", value=opened[-80:])
    return header


def _audio_anchor(backbone: Backbone, template: str) -> str:
    """Return the audio placeholder, with the special token that closes it if there is one."""
    tokenizer = backbone.tokenizer
    placeholder = str(tokenizer.convert_ids_to_tokens(backbone.audio_token_id))
    before, found, after = _render(backbone, template, backbone.messages(_QUESTION), False).partition(placeholder)
    if not found:
        raise BackboneError("the chat template writes no audio placeholder", field="chat_template", value=before[-80:], allowed=placeholder)
    closing = re.match(r"<[^<>\s]+>", after)
    known = {str(token) for token in tokenizer.added_tokens_decoder.values()} - {backbone.end_of_turn}
    return placeholder + (closing[0] if closing and closing[0] in known else "")


def _wrap(original: str, anchor: str, replacement: str) -> str:
    """Return a template that renders the original, then replaces the anchor; `+` disables Jinja's whitespace trimming."""
    body = original.removesuffix("\n")  # Jinja removes one newline at the end of a source.
    return (
        f"{{% set rendered_chat +%}}{body}{{%+ endset %}}{{{{- rendered_chat | replace({_literal(anchor)}, {_literal(replacement)}) -}}}}"
    )


def _literal(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _verify(backbone: Backbone, original: str, written: str, anchor: str, text: str, placement: str) -> None:
    for messages, generation in conversations(backbone):
        before, after = _render(backbone, original, messages, generation), _render(backbone, written, messages, generation)
        assistants = sum(message["role"] == "assistant" for message in messages) + generation
        expected = assistants if placement == "before_answer" else 1
        if after.count(text) != expected or after.count(anchor + text) != expected or after.replace(text, "") != before:
            raise BackboneError(
                f"the thinking block cannot be written into the chat template ({placement})",
                field="chat_template",
                value=after[-200:],
                allowed=f"the block {expected} times, right after {anchor!r}",
                next_step="fix the base's template",
            )
