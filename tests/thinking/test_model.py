"""The model: adapter on, off and on again; gradients, causality, one prefill, equal initial weights of the arms, losses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList

from coat_core.backbones.base import Query
from coat_core.errors import BackboneError, TrainingError
from coat_core.settings import LossSettings
from coat_core.thinking.losses import StageWeights, Totals
from coat_core.thinking.model import ThinkingModel, audio_states, think_states
from tests.testing.totals import count_totals

Make = Callable[..., ThinkingModel]
PLACEMENTS = ("before_answer", "after_audio")


def _audio(model: ThinkingModel, queries: list[Query]) -> list[Tensor]:
    return model.backbone.embed_audio(model.backbone.mel([query.waveform for query in queries]))


def _logits(model: ThinkingModel, queries: list[Query]) -> Tensor:
    inputs: dict[str, Any] = model.backbone.generation_inputs(model.backbone.encode(queries, generation=True))
    with torch.no_grad():
        logits: Tensor = model.backbone.model(**inputs).logits
    return logits


def test_on_off_on(make_model: Make, make_backbone: Any, backbone_key: str, queries: list[Query]) -> None:
    """The adapter changes the logits; without it they equal those of the base bit for bit; with it again they return."""
    model = make_model(backbone_key, "block", trained=True)
    base = make_backbone(backbone_key)
    base.tokenizer = model.backbone.tokenizer
    inputs = base.generation_inputs(base.encode(queries, generation=True))
    with torch.no_grad():
        untouched = base.model(**inputs).logits
    on = _logits(model, queries)
    assert model._tokens_hook is not None
    model._tokens_hook.detach()
    with model.peft.disable_adapter():
        off = _logits(model, queries)
    model._tokens_hook.attach(model.backbone.embedding)
    again = _logits(model, queries)
    assert torch.equal(off, untouched)
    assert torch.equal(on, again)
    assert not torch.allclose(on, off, atol=1e-2)
    without_lora = make_model(backbone_key, "block")
    with torch.no_grad():
        tokens = without_lora.trainable_tokens
        tokens.add_(torch.randn(tokens.shape, generator=torch.Generator().manual_seed(0)) * 0.1)
    assert not torch.allclose(_logits(without_lora, queries), untouched, atol=1e-3), "the trainable tokens alone change the logits"


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_the_answer_loss_has_a_gradient_at_the_read_layer_and_none_at_the_last(
    make_model: Make, backbone_key: str, placement: str, queries: list[Query]
) -> None:
    """The answer depends on the think states of the read layer, and not on those of the last layer's output."""
    model = make_model(backbone_key, "block", trained=True, placement=placement)
    assert model.block is not None
    batch, audio = model.backbone.encode(queries), _audio(model, queries)
    outputs: list[Tensor] = []
    for layer in (model.block.read_layer, model.backbone.layer_count):
        model.backbone.layers[layer - 1].register_forward_hook(lambda module, args, output: outputs.append(output))
    losses = model(batch, audio, {}, StageWeights(1.0, 0.0), count_totals(batch, {}))
    positions = model.block.positions(batch.input_ids)
    read, last = torch.autograd.grad(losses.loss, outputs)
    for row in range(2):
        assert bool((read[row, positions[row]].abs().sum(-1) > 0).all())
        assert torch.equal(last[row, positions[row]], torch.zeros_like(last[row, positions[row]]))
        assert bool((last[row].abs().sum(-1) > 0).any())


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_a_think_state_depends_on_no_later_position(make_model: Make, backbone_key: str, placement: str, queries: list[Query]) -> None:
    """Shown by the gradients of each think state with respect to every input embedding."""
    model = make_model(backbone_key, "block", trained=True, placement=placement)
    assert model.block is not None
    batch = model.backbone.encode(queries)
    embeddings = model.backbone.embed(batch, _audio(model, queries)).detach().requires_grad_()
    positions = model.block.positions(batch.input_ids)
    inner, _ = model.backbone.hidden_states(embeddings, batch.attention_mask, model.block.read_layer)
    states = think_states(inner, model.block, batch)
    for k in range(4):
        (gradient,) = torch.autograd.grad(states[:, k].square().sum(), embeddings, retain_graph=True)
        for row in range(2):
            reach = gradient[row].abs().sum(-1)
            position = int(positions[row, k])
            assert bool((reach[: position + 1] > 0).all())
            assert torch.equal(reach[position + 1 :], torch.zeros_like(reach[position + 1 :]))


class _Forced(LogitsProcessor):  # type: ignore[misc]
    """Forces generation to output exactly these ids."""

    def __init__(self, ids: list[int], prompt: int) -> None:
        self.ids, self.prompt = ids, prompt

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        forced = torch.full_like(scores, float("-inf"))
        forced[:, self.ids[input_ids.shape[1] - self.prompt]] = 0.0
        return forced


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_one_prefill_and_n_steps_with_and_without_the_block(
    make_model: Make, backbone_key: str, placement: str, queries: list[Query]
) -> None:
    """With a forced answer, the block adds K + 2 positions to the only prefill and no decoding step."""
    lengths = {}
    for arm in ("sft", "block"):
        model = make_model(backbone_key, arm, placement=placement)
        backbone = model.backbone
        answer = backbone.tokenizer.encode("a dog barks twice", add_special_tokens=False)
        end = backbone.tokenizer.convert_tokens_to_ids(backbone.end_of_turn)
        inputs: dict[str, Any] = backbone.generation_inputs(backbone.encode(queries[:1], generation=True))
        widths: list[int] = []
        backbone.layers[0].register_forward_pre_hook(
            lambda module, args, kwargs, widths=widths: widths.append((args[0] if args else kwargs["hidden_states"]).shape[1]),
            with_kwargs=True,
        )
        prompt = inputs["input_ids"].shape[1]
        forced = LogitsProcessorList([_Forced([*answer, end], prompt)])
        out = backbone.model.generate(**inputs, logits_processor=forced, max_new_tokens=50, do_sample=False, eos_token_id=end)  # type: ignore[operator]
        assert out[0, prompt:].tolist() == [*answer, end]
        assert widths == [prompt] + [1] * len(answer)
        lengths[arm] = prompt
    assert lengths["block"] - lengths["sft"] == 4 + 2


def test_initial_weights_are_equal_in_all_arms(make_model: Make, backbone_key: str) -> None:
    """LoRA, trainable tokens and heads each have their own generator; the global generator is neither used nor changed."""
    state = torch.get_rng_state()
    arms = {}
    for seed, arm in ((0, "sft"), (0, "block"), (0, "coat"), (1, "sft")):
        torch.manual_seed(len(arms) + 100)
        before = torch.get_rng_state()
        arms[arm, seed] = make_model(backbone_key, arm, seed=seed).trainable_state()
        assert torch.equal(torch.get_rng_state(), before)
    torch.set_rng_state(state)
    lora = [name for name in arms["sft", 0] if "lora" in name]
    assert len(lora) == 84
    for name in lora:
        assert torch.equal(arms["sft", 0][name], arms["block", 0][name]), name
        assert torch.equal(arms["sft", 0][name], arms["coat", 0][name]), name
        assert torch.equal(arms["sft", 0][name], arms["sft", 1][name]) == ("lora_B" in name)
        assert bool((arms["sft", 0][name] == 0).all()) == ("lora_B" in name)
    assert torch.equal(arms["block", 0]["trainable_tokens"], arms["coat", 0]["trainable_tokens"])
    assert len({tuple(arms["sft", 0][name].flatten()[:4].tolist()) for name in lora if "lora_A" in name}) == 42


def test_answer_loss_equals_that_of_the_stock_model(make_model: Make, backbone_key: str, queries: list[Query]) -> None:
    """Logits are computed on answer positions only; the loss equals the cross-entropy of the stock logits of the whole sequence."""
    model = make_model(backbone_key, "block", trained=True)
    batch, audio = model.backbone.encode(queries), _audio(model, queries)
    losses = model(batch, audio, {}, StageWeights(1.0, 0.0), Totals(7))
    inputs: dict[str, Any] = model.backbone.generation_inputs(batch)
    with torch.no_grad():
        logits = model.backbone.model(**inputs).logits[:, :-1].float()
    chosen = logits.log_softmax(-1).gather(2, batch.input_ids[:, 1:, None])[..., 0]
    expected = -chosen[batch.answer_mask[:, 1:]].sum()
    torch.testing.assert_close(losses.answer_sum, expected, atol=1e-3, rtol=1e-4)
    torch.testing.assert_close(losses.loss.detach(), losses.answer_sum / 7)


def test_the_loss_is_a_weighted_sum_over_the_totals_of_the_window(make_model: Make, queries: list[Query], targets: Any) -> None:
    model = make_model("qwen2_audio", trained=True)
    model.losses = LossSettings(expert_weights={"pitch": 3.0})
    batch, audio = model.backbone.encode(queries), _audio(model, queries)
    totals, weights = Totals(11, {"reconstruction": 5, "pitch": 2}), StageWeights(0.5, 0.7)
    losses = model(batch, audio, targets, weights, totals, num_items_in_batch=3)
    expected = 0.5 * losses.answer_sum / 11 + 0.7 * (losses.experts["reconstruction"] / 5 + 3.0 * losses.experts["pitch"] / 2)
    torch.testing.assert_close(losses.loss.detach(), expected)


def test_a_share_of_each_experts_loss_can_be_taken_at_the_audio_positions(
    make_model: Make, backbone_key: str, queries: list[Query], targets: Any
) -> None:
    model = make_model(backbone_key, trained=True)
    batch, audio = model.backbone.encode(queries), _audio(model, queries)
    totals, weights = count_totals(batch, targets), StageWeights(1.0, 1.0)

    def experts(share: float) -> dict[str, Tensor]:
        model.losses = LossSettings(audio_share=share)
        return model(batch, audio, targets, weights, totals).experts

    block, quarter, half = experts(0.0), experts(0.25), experts(0.5)
    at_audio = {key: 2 * half[key] - block[key] for key in block}
    for key, loss in quarter.items():
        assert abs(at_audio[key] - block[key]) > 1e-3
        torch.testing.assert_close(loss, 0.75 * block[key] + 0.25 * at_audio[key])
    # The part at the audio positions is what the same heads lose there without a block.
    states = model.backbone.hidden_states(model.backbone.embed(batch, audio), batch.attention_mask, model.read_layer)[0]
    at, mask = audio_states(states, batch, model.backbone.audio_token_id)
    seconds = [clip.shape[0] / model.backbone.audio_token_rate_hz for clip in audio]
    for key, rows in targets.items():
        expected = model.heads[key].loss(at, seconds, rows, model.losses, mask)
        torch.testing.assert_close(at_audio[key], expected.detach(), atol=1e-3, rtol=1e-4)


def test_the_losses_of_a_windows_batches_add_up(make_model: Make, backbone_key: str, queries: list[Query], targets: Any) -> None:
    """Two batches of one example give the loss and the gradients of one batch of two."""
    model = make_model(backbone_key, trained=True)
    weights, totals = StageWeights(0.5, 1.0), count_totals(model.backbone.encode(queries), targets)

    def gradients(splits: list[slice]) -> tuple[Tensor, dict[str, Tensor]]:
        model.zero_grad()
        cuts = [
            (model.backbone.encode(queries[s]), _audio(model, queries[s]), {key: rows[s] for key, rows in targets.items()}) for s in splits
        ]
        loss = torch.zeros(())
        for batch, audio, part_targets in cuts:
            part = model(batch, audio, part_targets, weights, totals).loss
            part.backward()
            loss = loss + part.detach()
        return loss, {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    whole, whole_gradients = gradients([slice(0, 2)])
    parts, part_gradients = gradients([slice(0, 1), slice(1, 2)])
    torch.testing.assert_close(whole, parts, atol=1e-4, rtol=1e-4)
    for name, gradient in whole_gradients.items():
        torch.testing.assert_close(gradient, part_gradients[name], atol=2e-4, rtol=2e-3, msg=lambda text, name=name: f"{name}: {text}")


def test_gradient_checkpointing_changes_nothing(make_model: Make, backbone_key: str, queries: list[Query], targets: Any) -> None:
    found = []
    for checkpointing in (False, True):
        model = make_model(backbone_key, trained=True).train()
        if checkpointing:
            model.backbone.model.activation_checkpointing_enable({"use_reentrant": False})  # type: ignore[operator]
        batch, audio = model.backbone.encode(queries), _audio(model, queries)
        model(batch, audio, targets, StageWeights(1.0, 1.0), count_totals(batch, targets)).loss.backward()
        found.append({name: p.grad for name, p in model.named_parameters() if p.requires_grad})
    for name, gradient in found[0].items():
        torch.testing.assert_close(gradient, found[1][name], msg=lambda text, name=name: f"{name}: {text}")


def test_trainable_state_round_trip(make_model: Make) -> None:
    trained, fresh = make_model("qwen2_audio", trained=True), make_model("qwen2_audio")
    state = trained.trainable_state()
    fresh.load_trainable_state(state)
    assert all(torch.equal(value, state[name]) for name, value in fresh.trainable_state().items())
    kept = fresh.trainable_state()
    for wrong in (
        {**state, "more": torch.zeros(1)},
        {name: value for name, value in state.items() if name != "trainable_tokens"},
        {**state, "trainable_tokens": torch.zeros(1, 2)},
    ):
        with pytest.raises(TrainingError, match="differ from those of this model"):
            fresh.load_trainable_state({name: value + 1 for name, value in wrong.items()})
        assert all(torch.equal(value, kept[name]) for name, value in fresh.trainable_state().items())


def test_mistakes_are_named(make_model: Make, queries: list[Query], targets: Any) -> None:
    model = make_model("qwen2_audio")
    batch, audio = model.backbone.encode(queries), _audio(model, queries)
    weights, totals = StageWeights(1.0, 1.0), Totals(1, {})
    with pytest.raises(TrainingError, match="different experts"):
        model(batch, audio, {"pitch": targets["pitch"]}, weights, totals)
    with pytest.raises(TrainingError, match="one target per row"):
        model(batch, audio, {**targets, "pitch": targets["pitch"][:1]}, weights, totals)
    injected = [Query("x", np.zeros(16_000, np.float32), "say <|think|> aloud", "no", "example-7")]
    with pytest.raises(BackboneError, match="example-7"):
        model(model.backbone.encode(injected), audio[:1], {key: rows[:1] for key, rows in targets.items()}, weights, totals)
