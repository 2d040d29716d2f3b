"""The chat template of a base. It is stored in the tokenizer only."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def qwen_template(audio: str) -> str:
    """Return the Qwen chat format with a system prompt, as the three LALMs publish it.

    Args:
        audio: the text of an audio part; `audios.count` is its number, from 1.
    """
    return (
        "{% set audios = namespace(count=0) %}"
        "{% for message in messages %}"
        "{% if loop.first and message['role'] != 'system' %}<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}"
        "<|im_start|>{{ message['role'] }}\n"
        "{% if message['content'] is string %}{{ message['content'] }}"
        "{% else %}{% for part in message['content'] %}"
        "{% if part['type'] == 'audio' or 'audio' in part or 'audio_url' in part %}{% set audios.count = audios.count + 1 %}"
        + audio
        + "{% elif 'text' in part %}{{ part['text'] }}{% endif %}"
        "{% endfor %}{% endif %}<|im_end|>\n"
        "{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )


def published_template(folder: Path, tokenizer: Any, audio_token: str, default: str) -> str:
    """Return the checkpoint's published template for prompts with audio.

    The processor's file takes precedence over the tokenizer: some checkpoints store a text-only template in the tokenizer.

    Args:
        folder: the checkpoint's folder.
        tokenizer: its tokenizer.
        audio_token: a template without this token is text-only and is skipped.
        default: the result if no published template contains the audio token.
    """
    found: list[Any] = []
    for name in ("chat_template.jinja", "chat_template.json"):
        if (folder / name).is_file():
            text = (folder / name).read_text(encoding="utf-8")
            found.append(json.loads(text).get("chat_template") if name.endswith(".json") else text)
    found.append(tokenizer.chat_template)
    return next((template for template in found if isinstance(template, str) and audio_token in template), default)
