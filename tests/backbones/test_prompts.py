from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from transformers import AutoProcessor

from coat_core.backbones.base import Backbone, Query
from coat_core.errors import BackboneError

EXPECTED = {
    "qwen2_audio": "Audio 1: <|audio_bos|><|AUDIO|><|audio_eos|>\n",
    "qwen2_5_omni": "<|audio_bos|><|AUDIO|><|audio_eos|>",
    "audio_flamingo_3": "<sound>",
}


def test_the_prompt_has_the_published_format(backbone: Backbone) -> None:
    text = backbone.tokenizer.apply_chat_template(backbone.messages("What is this?"), add_generation_prompt=True, tokenize=False)
    assert text == (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
        + EXPECTED[backbone.key]
        + "What is this?<|im_end|>\n<|im_start|>assistant\n"
    )


def test_the_template_of_qwen2_audio_equals_its_stock_default(tiny_bases: dict[str, Path]) -> None:
    processor = AutoProcessor.from_pretrained(tiny_bases["qwen2_audio"])
    messages = [
        {"role": "user", "content": [{"type": "audio", "audio_url": "a"}, {"type": "text", "text": "What?"}]},
        {"role": "assistant", "content": "A dog."},
        {"role": "user", "content": [{"type": "text", "text": "And?"}, {"type": "audio", "audio_url": "b"}]},
    ]
    render = processor.tokenizer.apply_chat_template
    ours = render(messages, tokenize=False, add_generation_prompt=True)
    stock = render(messages, chat_template=processor.default_chat_template, tokenize=False, add_generation_prompt=True)
    assert ours == stock


@pytest.mark.parametrize("key", ["qwen2_audio", "audio_flamingo_3"])
def test_prompt_ids_equal_the_stock_processor(key: str, tiny_bases: dict[str, Path], make_query: Callable[..., Query]) -> None:
    from coat_core.backbones.catalogue import load_backbone

    backbone, query = load_backbone(key, str(tiny_bases[key])), make_query(23_456)
    processor = AutoProcessor.from_pretrained(tiny_bases[key])
    text = processor.apply_chat_template(backbone.messages(query.text), add_generation_prompt=True, tokenize=False)
    stock = processor(text=[text], audio=[query.waveform], sampling_rate=16_000, return_tensors="pt")
    ours = backbone.encode([query], generation=True)
    assert ours.input_ids.tolist() == stock["input_ids"].tolist()
    assert backbone.generation_inputs(ours)["input_features"].equal(stock["input_features"])


def test_a_training_row_is_prompt_and_answer(backbone: Backbone, queries: list[Query]) -> None:
    training, prompts = backbone.encode(queries), backbone.encode(queries, generation=True)
    for row, query in enumerate(queries):
        ids = training.input_ids[row][training.attention_mask[row].bool()]
        prompt = prompts.input_ids[row][prompts.attention_mask[row].bool()]
        answer = training.input_ids[row][training.answer_mask[row]]
        assert ids.tolist() == prompt.tolist() + answer.tolist()
        assert backbone.tokenizer.decode(answer) == f"{query.answer}<|im_end|>"
        assert backbone.tokenizer.decode(prompt).endswith("<|im_start|>assistant\n")


def test_padding_sides(backbone: Backbone, queries: list[Query]) -> None:
    training, prompts = backbone.encode(queries), backbone.encode(queries, generation=True)
    assert training.attention_mask[:, 0].all()
    assert prompts.attention_mask[:, -1].all()
    assert not prompts.answer_mask.any()
    assert (training.input_ids[~training.attention_mask.bool()] == backbone.tokenizer.pad_token_id).all()
    assert backbone.tokenizer.pad_token_id != backbone.audio_token_id


def test_a_placeholder_in_a_question_is_text(backbone: Backbone, make_query: Callable[..., Query]) -> None:
    placeholder = backbone.tokenizer.convert_ids_to_tokens(backbone.audio_token_id)
    query = make_query(16_000, f"Compare {placeholder} with it.", name="two-sounds")
    batch = backbone.encode([query], generation=True)
    assert int((batch.input_ids == backbone.audio_token_id).sum()) == backbone.audio_token_count(16_000)
    assert query.text in backbone.tokenizer.decode(batch.input_ids[0])


@pytest.mark.parametrize("count", [0, 2])
def test_a_template_that_does_not_write_one_audio_is_refused(backbone: Backbone, make_query: Callable[..., Query], count: int) -> None:
    placeholder = backbone.tokenizer.convert_ids_to_tokens(backbone.audio_token_id)
    backbone.tokenizer.chat_template = backbone.tokenizer.chat_template.replace(placeholder, placeholder * count)
    with pytest.raises(BackboneError, match=rf"two-sounds.*exactly one audio.*{count} placeholders"):
        backbone.encode([make_query(16_000, name="two-sounds")])


def test_an_example_with_too_many_tokens_is_refused_by_name(backbone: Backbone, make_query: Callable[..., Query]) -> None:
    with pytest.raises(BackboneError, match=r"endless.*too long.*at most 2048"):
        backbone.encode([make_query(16_000, "zq" * 2_000, name="endless")])


@pytest.mark.parametrize("answer", [None, "", "  "])
def test_training_requires_an_answer(backbone: Backbone, make_query: Callable[..., Query], answer: str | None) -> None:
    query = replace(make_query(16_000, name="mute"), answer=answer)
    backbone.encode([query], generation=True)
    with pytest.raises(BackboneError, match="mute"):
        backbone.encode([query])


def test_an_empty_batch_is_refused(backbone: Backbone) -> None:
    with pytest.raises(BackboneError, match="at least one"):
        backbone.encode([])
