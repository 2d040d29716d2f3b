from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import peft
import pytest
import torch
from torch import Tensor

from coat_core.backbones.base import Backbone, Batch, Query
from coat_core.errors import BackboneError


def run(backbone: Backbone, batch: Batch, layer: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    """Return the states of `layer`, the final states and the logits, computed by `Lalm`."""
    audio = backbone.embed_audio(backbone.mel([query.waveform for query in batch.queries]))
    read, final = backbone.hidden_states(backbone.embed(batch, audio), batch.attention_mask, layer)
    return read, final, backbone.answer_logits(final)


def max_difference(one: Tensor, other: Tensor, batch: Batch) -> float:
    mask = batch.attention_mask.bool()
    return float((one[mask] - other[mask]).abs().max())


@pytest.mark.parametrize("generation", [False, True], ids=["right-padded", "left-padded"])
def test_logits_equal_the_stock_forward(backbone: Backbone, queries: list[Query], generation: bool) -> None:
    batch = backbone.encode(queries, generation=generation)
    edge = batch.attention_mask[:, 0 if generation else -1]
    assert edge.min() == 0, "the batch must have padding on the tested side"
    with torch.no_grad():
        stock = backbone.model(**backbone.generation_inputs(batch)).logits
        assert max_difference(run(backbone, batch)[2], stock, batch) < 1e-5
        assert max_difference(torch.roll(run(backbone, batch)[2], 1, 0), stock, batch) > 1e-3


def test_hidden_states_are_the_layers_output_before_the_norm(backbone: Backbone, queries: list[Query]) -> None:
    batch = backbone.encode(queries)
    with torch.no_grad():
        stock = backbone.model(**backbone.generation_inputs(batch), output_hidden_states=True).hidden_states
        for layer in (1, 3):
            assert max_difference(run(backbone, batch, layer)[0], stock[layer], batch) < 1e-5
        read, final, _ = run(backbone, batch, backbone.layer_count)
        assert max_difference(read, final, batch) > 1e-2
        assert max_difference(backbone.model.model.language_model.norm(read), final, batch) < 1e-6


@pytest.mark.parametrize("layer", [0, 7])
def test_an_invalid_layer_is_refused(backbone: Backbone, queries: list[Query], layer: int) -> None:
    with pytest.raises(BackboneError, match="1 to 6"):
        run(backbone, backbone.encode(queries), layer)


def test_left_and_right_padding_agree(backbone: Backbone, queries: list[Query]) -> None:
    left, right = backbone.encode(queries, generation=True), backbone.encode(queries)
    prompts = right.attention_mask.bool() & ~right.answer_mask
    with torch.no_grad():
        one = run(backbone, left)[1][left.attention_mask.bool()]
        other = run(backbone, right)[1][prompts]
    assert float((one - other).abs().max()) < 1e-5


def test_a_generate_call_does_not_change_later_logits(backbone: Backbone, queries: list[Query]) -> None:
    batch = backbone.encode(queries)
    with torch.no_grad():
        before = run(backbone, batch)[2]
        backbone.model.generate(**backbone.generation_inputs(backbone.encode(queries[:1], generation=True)), max_new_tokens=2)
        if backbone.key == "qwen2_5_omni":
            backbone.model.model.rope_deltas = torch.full((3, 1), 17)
        assert torch.equal(before, run(backbone, batch)[2])


def test_generate_is_equal_batched_and_one_by_one(backbone: Backbone, queries: list[Query]) -> None:
    batch = backbone.encode(queries, generation=True)
    options: dict[str, Any] = {"max_new_tokens": 4, "do_sample": False, "eos_token_id": None}
    together = backbone.model.generate(**backbone.generation_inputs(batch), **options)[:, -4:]
    for row, query in zip(together, queries, strict=True):
        alone = backbone.model.generate(**backbone.generation_inputs(backbone.encode([query], generation=True)), **options)
        assert row.tolist() == alone[0, -4:].tolist()


def test_greedy_generation_follows_the_logits(backbone: Backbone, queries: list[Query]) -> None:
    batch = backbone.encode(queries, generation=True)
    with torch.no_grad():
        expected = run(backbone, batch)[2][:, -1].argmax(-1)
    new = backbone.model.generate(**backbone.generation_inputs(batch), max_new_tokens=1, do_sample=False)[:, -1]
    assert new.tolist() == expected.tolist()


def test_lora_is_injected_disabled_and_merged(backbone: Backbone, queries: list[Query]) -> None:
    batch = backbone.encode(queries)
    with torch.no_grad():
        untouched = run(backbone, batch)[2]
    target = backbone.lora_targets(["q_proj", "down_proj"])
    wrapped = peft.get_peft_model(backbone.model, peft.LoraConfig(r=4, target_modules=target, init_lora_weights=False))
    wrapped.eval()
    with torch.no_grad():
        ours, stock = run(backbone, batch)[2], wrapped(**backbone.generation_inputs(batch)).logits
        assert max_difference(ours, untouched, batch) > 1e-3
        assert max_difference(ours, stock, batch) < 1e-5
        with wrapped.disable_adapter():
            assert torch.equal(run(backbone, batch)[2], untouched)
        backbone.model = wrapped.merge_and_unload()
        assert max_difference(run(backbone, batch)[2], ours, batch) < 1e-4


def test_lora_targets_match_the_decoder_only(backbone: Backbone) -> None:
    modules = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    wrapped = peft.get_peft_model(backbone.model, peft.LoraConfig(r=2, target_modules=backbone.lora_targets(modules)))
    names = [name for name, _ in wrapped.named_parameters() if "lora_A" in name]
    assert len(names) == len(modules) * backbone.layer_count
    assert all(".language_model.layers." in name for name in names)
    assert any("audio_tower" in name and "q_proj" in name for name, _ in wrapped.named_parameters()), (
        "the tower must have modules of the same names"
    )


@pytest.mark.parametrize("modules", [[], ["q_proj", "fc1"]])
def test_unknown_lora_targets_are_refused(backbone: Backbone, modules: list[str]) -> None:
    with pytest.raises(BackboneError, match="gate_proj"):
        backbone.lora_targets(modules)


def test_gradient_checkpointing_does_not_change_gradients(backbone: Backbone, queries: list[Query]) -> None:
    batch = backbone.encode(queries)
    gradients = []
    for checkpointing in (False, True):
        if checkpointing:
            backbone.model.activation_checkpointing_enable()
        backbone.model.train()
        backbone.model.zero_grad()
        read, final, _ = run(backbone, batch)
        (read.square().mean() + final.square().mean()).backward()
        gradients.append(backbone.layers[0].mlp.up_proj.weight.grad.clone())
    assert gradients[0].abs().max() > 0
    assert torch.allclose(*gradients, atol=1e-7)


def test_audio_embeddings_replace_the_placeholders_in_order(backbone: Backbone, queries: list[Query]) -> None:
    batch = backbone.encode(queries)
    audio = [torch.full((backbone.audio_token_count(len(q.waveform)), backbone.hidden_size), float(i)) for i, q in enumerate(queries, 1)]
    embeddings = backbone.embed(batch, audio)
    for row, (ids, states) in enumerate(zip(batch.input_ids, audio, strict=True)):
        is_audio = ids == backbone.audio_token_id
        assert torch.equal(embeddings[row, is_audio], states)
        assert torch.equal(embeddings[row, ~is_audio], backbone.embedding(ids[~is_audio]))


@pytest.mark.parametrize("change", ["fewer", "more", "swapped", "missing row"])
def test_audio_that_does_not_match_its_placeholders_is_refused(backbone: Backbone, queries: list[Query], change: str) -> None:
    batch = backbone.encode(queries)
    audio = [torch.zeros(backbone.audio_token_count(len(query.waveform)), backbone.hidden_size) for query in queries]
    wrong = {
        "fewer": [audio[0], audio[1][:-1], audio[2]],
        "more": [*audio, audio[0]],
        "swapped": [audio[1], audio[0], audio[2]],
        "missing row": audio[:2],
    }[change]
    with pytest.raises(BackboneError, match="placeholders and audio embeddings differ"):
        backbone.embed(batch, wrong)


def test_a_clip_longer_than_the_limit_is_refused_by_name(backbone: Backbone, make_query: Callable[..., Query]) -> None:
    limit = backbone.architecture.limit_samples(backbone.model.config, backbone.extractor)  # type: ignore[attr-defined]
    long = replace(make_query(100, name="much-too-long"), waveform=np.zeros(limit + 1, np.float32))
    with pytest.raises(BackboneError, match="much-too-long"):
        backbone.encode([make_query(16_000), long])


def test_a_clip_of_several_windows_equals_stock(backbone: Backbone, make_query: Callable[..., Query]) -> None:
    """Only Audio Flamingo 3 has several windows without `long_audio: windows`."""
    query = make_query(400_000 if backbone.key == "audio_flamingo_3" else 160_000)
    batch = backbone.encode([query])
    assert int((batch.input_ids == backbone.audio_token_id).sum()) == backbone.audio_token_count(len(query.waveform))
    with torch.no_grad():
        assert max_difference(run(backbone, batch)[2], backbone.model(**backbone.generation_inputs(batch)).logits, batch) < 1e-5


def test_a_too_short_clip_is_refused_by_name(backbone: Backbone, make_query: Callable[..., Query]) -> None:
    with pytest.raises(BackboneError, match="a-click"):
        backbone.encode([make_query(320, name="a-click")])
    assert backbone.encode([make_query(321)]).input_ids.shape[0] == 1
