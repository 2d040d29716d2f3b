"""Heads on the audio positions (arm align), the bottleneck, and rows without an answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from coat_core.backbones.base import Query
from coat_core.errors import BackboneError
from coat_core.thinking.cuts import blocked_pairs
from coat_core.thinking.losses import StageWeights
from coat_core.thinking.model import ThinkingModel, audio_states
from tests.testing.totals import count_totals

Make = Callable[..., ThinkingModel]
PLACEMENTS = ("before_answer", "after_audio")


def _audio(model: ThinkingModel, queries: list[Query]) -> list[Tensor]:
    return model.backbone.embed_audio(model.backbone.mel([query.waveform for query in queries]))


def test_heads_without_a_block_read_the_audio_positions(make_model: Make, backbone_key: str, queries: list[Query], targets: Any) -> None:
    """The distillation's gradient at the read layer is at the audio positions only."""
    model = make_model(backbone_key, "align", trained=True)
    batch, audio = model.backbone.encode(queries), _audio(model, queries)
    outputs: list[Tensor] = []
    model.backbone.layers[model.read_layer - 1].register_forward_hook(lambda module, args, output: outputs.append(output))
    losses = model(batch, audio, targets, StageWeights(0.0, 1.0), count_totals(batch, targets))
    (gradient,) = torch.autograd.grad(losses.loss, outputs)
    is_audio = batch.input_ids == model.backbone.audio_token_id
    size = gradient.abs().sum(-1)
    assert bool((size[is_audio] > 0).all())
    assert torch.equal(size[~is_audio], torch.zeros_like(size[~is_audio]))


def test_audio_states_are_padded_at_the_end(make_model: Make, queries: list[Query]) -> None:
    model = make_model("qwen2_audio", "align")
    batch = model.backbone.encode(queries)
    states = torch.arange(batch.input_ids.numel(), dtype=torch.float32).view(*batch.input_ids.shape, 1)
    found, mask = audio_states(states, batch, model.backbone.audio_token_id)
    counts = [model.backbone.audio_token_count(len(query.waveform)) for query in queries]
    assert mask.sum(1).tolist() == counts
    assert found.shape == (2, max(counts), 1)
    for row, count in enumerate(counts):
        expected = states[row][batch.input_ids[row] == model.backbone.audio_token_id]
        assert torch.equal(found[row, :count], expected)
        assert not found[row, count:].any()


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_with_a_bottleneck_the_audio_reaches_the_answer_through_the_block_only(
    make_model: Make, backbone_key: str, placement: str, queries: list[Query]
) -> None:
    """With the block cut off too, the answer's states have no gradient at the audio; with the audio cut off alone, they have one."""
    model = make_model(backbone_key, "block", trained=True, placement=placement)
    assert model.block is not None
    batch, audio = model.backbone.encode(queries), _audio(model, queries)
    is_audio = batch.input_ids == model.backbone.audio_token_id
    in_block = torch.isin(batch.input_ids, torch.tensor(model.block.ids[: 6 if placement == "after_audio" else 5]))
    cut = blocked_pairs(batch, model.block, model.backbone.audio_token_id, ("audio",))
    both = cut | (cut.any(2)[:, :, None] & in_block[:, None, :])
    embeddings = model.backbone.embed(batch, audio).detach().requires_grad_()
    reach = {}
    for name, blocked in (("audio", cut), ("both", both)):
        _, final = model.backbone.hidden_states(embeddings, batch.attention_mask, 1, blocked)
        (gradient,) = torch.autograd.grad(final[batch.answer_mask].square().sum(), embeddings)
        reach[name] = gradient.abs().sum(-1)
    assert bool((reach["audio"][is_audio] > 0).all())
    assert torch.equal(reach["both"][is_audio], torch.zeros_like(reach["both"][is_audio]))
    assert bool(cut.any(2)[batch.answer_mask].all())
    assert not bool(cut.any(2)[in_block].any())


def test_blocking_nothing_changes_nothing(make_model: Make, backbone_key: str, queries: list[Query]) -> None:
    model = make_model(backbone_key, "block", trained=True)
    batch, audio = model.backbone.encode(queries), _audio(model, queries)
    length = batch.input_ids.shape[1]
    with torch.no_grad():
        embeddings = model.backbone.embed(batch, audio)
        usual = model.backbone.hidden_states(embeddings, batch.attention_mask, 2)
        nothing = torch.zeros(2, length, length, dtype=torch.bool)
        blocked = model.backbone.hidden_states(embeddings, batch.attention_mask, 2, nothing)
    valid = batch.attention_mask.bool()
    for one, other in zip(usual, blocked, strict=True):
        torch.testing.assert_close(one[valid], other[valid], atol=1e-5, rtol=1e-5)


def test_an_attention_that_cannot_block_pairs_is_refused(make_model: Make, queries: list[Query], monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model("qwen2_audio", "block")
    batch, audio = model.backbone.encode(queries), _audio(model, queries)
    embeddings = model.backbone.embed(batch, audio)
    monkeypatch.setattr(model.backbone.model.config, "_attn_implementation_internal", "flash_attention_2", raising=False)
    blocked = torch.zeros(2, 1, 1, dtype=torch.bool)
    with pytest.raises(BackboneError, match="cannot block pairs"):
        model.backbone.hidden_states(embeddings, batch.attention_mask, 1, blocked)


def test_a_row_without_an_answer_adds_to_the_distillation_only(
    make_model: Make, backbone_key: str, queries: list[Query], targets: Any
) -> None:
    model = make_model(backbone_key, "coat", trained=True)
    unlabelled = replace(queries[1], answer=None)
    batch = model.backbone.encode(queries[:1])
    prompt = model.backbone.encode([unlabelled], generation=True)
    audio = _audio(model, queries)
    weights = StageWeights(1.0, 1.0)
    one = {key: rows[:1] for key, rows in targets.items()}
    alone = model(batch, audio[:1], one, weights, count_totals(batch, one))
    other = {"reconstruction": targets["reconstruction"][1:], "pitch": [None]}
    added = model(prompt, audio[1:], other, weights, count_totals(prompt, other))
    assert float(added.answer_sum) == 0.0
    assert float(added.experts["reconstruction"]) > 0.0
    assert float(alone.answer_sum) > 0.0
