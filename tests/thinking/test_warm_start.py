"""The warm start of the trainable tokens, towards the base's output distribution without the block."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from coat_core.backbones.base import Query
from coat_core.errors import NonFiniteError
from coat_core.thinking import warm_start as module
from coat_core.thinking.model import ThinkingModel
from coat_core.thinking.warm_start import Batches, warm_start

Make = Callable[..., ThinkingModel]


def batch_of(model: ThinkingModel, queries: Sequence[Query], *, prompts: bool = False) -> tuple[Any, list[Tensor]]:
    with torch.no_grad():
        audio = model.backbone.embed_audio(model.backbone.mel([query.waveform for query in queries]))
    return model.backbone.encode(queries, generation=prompts), audio


def batches_of(model: ThinkingModel, queries: Sequence[Query], *, prompts: bool = False) -> Batches:
    return [batch_of(model, queries, prompts=prompts), batch_of(model, queries[:1], prompts=prompts)]


def stock_divergence(model: ThinkingModel, base: Any, query: Query) -> Tensor:
    """Return KL(base ‖ model) `[n]` at the aligned positions of one prompt with its answer, from the logits of the stock classes."""
    assert model.block is not None
    with torch.no_grad():
        ours, theirs = (
            each.model(**each.generation_inputs(each.encode([query]))).logits[0].log_softmax(-1) for each in (model.backbone, base)
        )
    ids = model.backbone.encode([query]).input_ids[0].tolist()
    end = ids.index(model.block.end_id)
    n = len(ids) - end
    return (theirs[-n:].exp() * (theirs[-n:] - ours[-n:])).sum(-1)


@pytest.mark.parametrize("placement", ["after_audio", "before_answer"])
def test_the_tokens_move_towards_the_base(
    make_model: Make, make_backbone: Any, backbone_key: str, placement: str, queries: list[Query]
) -> None:
    model = make_model(backbone_key, "coat", placement=placement)
    with torch.no_grad():
        model.trainable_tokens.mul_(3.0)
    before = model.trainable_state()
    base = make_backbone(backbone_key)
    batches = batches_of(model, queries)
    expected = torch.cat([stock_divergence(model, base, query) for query in (*queries, queries[0])]).mean()
    found = warm_start(model, batches, steps=6, learning_rate=0.02)
    assert (found.steps, found.learning_rate) == (6, 0.02)
    assert found.before == pytest.approx(float(expected), abs=1e-5)
    after = torch.cat([stock_divergence(model, base, query) for query in (*queries, queries[0])]).mean()
    assert found.after == pytest.approx(float(after), abs=1e-5)
    assert found.after < found.before
    changed = {name for name, value in model.trainable_state().items() if not torch.equal(value, before[name])}
    assert changed == {"trainable_tokens"}
    assert all(parameter.grad is None for parameter in model.parameters())


def test_prompts_suffice_and_repeated_calls_are_equal(make_model: Make, queries: list[Query]) -> None:
    results = []
    for _ in range(2):
        model = make_model("qwen2_5_omni", "block")
        found = warm_start(model, batches_of(model, queries, prompts=True), steps=3, learning_rate=0.01)
        results.append((found, model.trainable_tokens.detach()))
    (first, tokens), (second, again) = results
    assert first == second
    assert torch.equal(tokens, again)
    assert first.answer_loss is None
    assert first.after < first.before


def test_gradient_checkpointing_and_chunks_change_nothing(make_model: Make, queries: list[Query], monkeypatch: pytest.MonkeyPatch) -> None:
    results = []
    for checkpointing in (False, True):
        model = make_model("qwen2_audio", "block").train()
        if checkpointing:
            model.backbone.model.activation_checkpointing_enable({"use_reentrant": False})  # type: ignore[operator]
            monkeypatch.setattr(module, "_POSITIONS", 7)
        modes = [each.training for each in model.modules()]
        trainable = model.trainable_names()
        found = warm_start(model, batches_of(model, queries), steps=2, learning_rate=0.01)
        assert modes == [each.training for each in model.modules()]
        assert model.trainable_names() == trainable
        results.append((found, model.trainable_tokens.detach()))
    (first, tokens), (second, again) = results
    assert second.after == pytest.approx(first.after, abs=1e-6)
    torch.testing.assert_close(again, tokens, atol=1e-5, rtol=1e-5)


def test_a_divergence_that_is_not_finite_stops(make_model: Make, queries: list[Query]) -> None:
    model = make_model("qwen2_audio", "block")
    trainable = model.trainable_names()
    with torch.no_grad():
        model.trainable_tokens.fill_(float("nan"))
    with pytest.raises(NonFiniteError, match="divergence of the warm start"):
        warm_start(model, batches_of(model, queries), steps=2, learning_rate=0.01)
    assert model.trainable_names() == trainable
