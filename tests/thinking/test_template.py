from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from coat_core.backbones.base import Backbone
from coat_core.errors import BackboneError
from coat_core.settings import ThinkingSettings
from coat_core.thinking.block import ThinkingBlock
from coat_core.thinking.template import conversations, rewrite_template

Make = Callable[[str], Backbone]
PLACEMENTS = ("before_answer", "after_audio")

QWEN2_AUDIO = (
    "{% set audio_count = namespace(value=0) %}{% for message in messages %}{% if loop.first and message['role'] != 'system' %}"
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}<|im_end|>\n{% else %}{% for content in message['content'] %}"
    "{% if 'audio' in content or 'audio_url' in content or message['type'] == 'audio' or content['type'] == 'audio' %}"
    "{% set audio_count.value = audio_count.value + 1 %}Audio {{ audio_count.value }}: <|audio_bos|><|AUDIO|><|audio_eos|>\n"
    "{% elif 'text' in content %}{{ content['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
INDENTED = """{%- if messages[0]['role'] != 'system' %}
    {{- '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
    {{- '<|im_start|>' + message['role'] + '\\n' }}
    {%- if message['content'] is string %}
        {{- message['content'] }}
    {%- else %}
        {%- for part in message['content'] %}
            {%- if part['type'] == 'audio' %}
                {{- '<|AUDIO|>' }}
            {%- else %}
                {{- part['text'] }}
            {%- endif %}
        {%- endfor %}
    {%- endif %}
    {{- '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""


def _render(backbone: Backbone, messages: list[dict[str, Any]], generation: bool) -> str:
    return str(backbone.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=generation))


@pytest.mark.parametrize("template", [None, QWEN2_AUDIO, INDENTED])
@pytest.mark.parametrize("placement", PLACEMENTS)
def test_the_block_is_written_at_its_positions(make_backbone: Make, template: str | None, placement: str) -> None:
    backbone = make_backbone("qwen2_audio")
    backbone.tokenizer.chat_template = template or backbone.tokenizer.chat_template
    cases = conversations(backbone)
    before = [_render(backbone, *case) for case in cases]
    block = ThinkingBlock.install(backbone, ThinkingSettings(tokens=2, placement=placement))
    after = [_render(backbone, *case) for case in cases]
    for (messages, generation), old, new in zip(cases, before, after, strict=True):
        assert new.replace(block.text, "") == old
        if placement == "before_answer":
            turns = new.split("<|im_start|>assistant\n")[1:]
            assert len(turns) == generation + sum(message["role"] == "assistant" for message in messages)
            assert all(turn.startswith(block.text) for turn in turns)
            assert new.count(block.text) == len(turns)
        else:
            closing = "<|audio_eos|>" if template != INDENTED else ""
            assert new.count(f"<|AUDIO|>{closing}{block.text}") == new.count(block.text) == 1


@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize("rows", ["shared", "distinct"])
def test_the_training_prefix_equals_the_inference_prompt(
    make_backbone: Make, backbone_key: str, placement: str, rows: str, queries: list[Any]
) -> None:
    """The ids before the answer equal the prompt; the ids of a trained turn are a prefix of the prompt of the next turn."""
    backbone = make_backbone(backbone_key)
    block = ThinkingBlock.install(backbone, ThinkingSettings(tokens=4, placement=placement, rows=rows))
    train, prompt = backbone.encode(queries), backbone.encode(queries, generation=True)
    assert block.positions(train.input_ids).shape == block.positions(prompt.input_ids).shape == (2, 4)
    for row in range(2):
        question = train.input_ids[row][train.attention_mask[row].bool() & ~train.answer_mask[row]]
        assert question.tolist() == prompt.input_ids[row][prompt.attention_mask[row].bool()].tolist()
    (first, _), _, (two_turns, _), _ = conversations(backbone)
    encode = backbone.tokenizer.encode
    trained = encode(_render(backbone, first, True), add_special_tokens=False) + encode(
        "A bell rings." + backbone.end_of_turn, add_special_tokens=False
    )
    prompt_two = encode(_render(backbone, two_turns, True), add_special_tokens=False)
    assert prompt_two[: len(trained)] == trained
    starts = [i for i, token in enumerate(prompt_two) if token == block.start_id]
    assert [prompt_two[i : i + 6] for i in starts] == [block.ids] * (2 if placement == "before_answer" else 1)
    if placement == "before_answer":
        assert prompt_two[-6:] == block.ids


@pytest.mark.parametrize(
    ("template", "placement"),
    [
        ("{% for m in messages %}{{ m['role'] }}{% endfor %}", "before_answer"),
        (QWEN2_AUDIO.replace("<|AUDIO|>", ""), "after_audio"),
        (INDENTED.replace("message['role'] +", "message['role'][:4] +"), "before_answer"),
        ("{% if %}", "before_answer"),
        (None, "before_answer"),
    ],
)
def test_a_template_without_the_anchor_is_rejected(make_backbone: Make, template: str | None, placement: str) -> None:
    backbone = make_backbone("qwen2_audio")
    backbone.tokenizer.chat_template = template
    with pytest.raises(BackboneError, match="chat_template"):
        ThinkingBlock.install(backbone, ThinkingSettings(placement=placement))
    assert "<|think|>" not in backbone.tokenizer.get_vocab()


def test_a_base_with_several_templates_is_rejected() -> None:
    backbone: Any = SimpleNamespace(tokenizer=SimpleNamespace(chat_template={"default": "x", "tool": "y"}))
    with pytest.raises(BackboneError, match="no single chat template"):
        rewrite_template(backbone, "<b>", "before_answer")
