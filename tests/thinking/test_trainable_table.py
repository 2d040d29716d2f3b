"""Which parameters are trained: the exact names for each backbone and arm; nothing else ever changes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, get_args

import pytest
import torch
from peft import get_peft_model_state_dict
from torch import nn

from coat_core.backbones.base import Backbone, Query
from coat_core.settings import ARMS, LossSettings
from coat_core.thinking.losses import StageWeights
from coat_core.thinking.model import ThinkingModel, part_of
from coat_core.training.schedule import Stage, stage_weights
from tests.testing.totals import count_totals

Make = Callable[..., ThinkingModel]
TRAINED = [arm for arm in ARMS.values() if arm.lora]


def _decoder_linears(base: Backbone, leaves: tuple[str, ...]) -> set[str]:
    """Return the names, in the stock model, of the decoder layers' linear layers with these last names."""
    decoder = {id(module) for layer in base.layers for module in layer.modules()}
    linears = [name for name, module in base.model.named_modules() if isinstance(module, nn.Linear) and id(module) in decoder]
    return {name for name in linears if name.rpartition(".")[2] in leaves}


@pytest.mark.parametrize("arm", TRAINED, ids=lambda arm: arm.name)
def test_exactly_the_parts_of_the_arm_are_trainable(make_model: Make, make_backbone: Any, backbone_key: str, arm: Any) -> None:
    model = make_model(backbone_key, arm.name)
    saved = [name.removeprefix("base_model.model.") for name in get_peft_model_state_dict(model.peft)]
    linears = _decoder_linears(make_backbone(backbone_key), model.lora.modules)
    assert sorted(saved) == sorted(f"{linear}.lora_{side}.weight" for linear in linears for side in "AB")
    lora = {f"peft.base_model.model.{name.removesuffix('.weight')}.default.weight" for name in saved}
    heads = {f"heads.{name}" for name, _ in model.heads.named_parameters()}
    assert bool(heads) == arm.heads
    expected = lora | heads | ({"trainable_tokens"} if arm.block else set())
    assert set(model.trainable_names()) == expected
    groups = model.parameter_groups()
    assert {part: len(members) for part, members in groups.items()} == {
        part: count for part, count in (("rows", int(arm.block)), ("lora", len(lora)), ("heads", len(heads))) if count
    }
    assert list(groups) == list(dict.fromkeys(map(part_of, model.trainable_names())))


@pytest.mark.parametrize("arm", TRAINED, ids=lambda arm: arm.name)
def test_nothing_else_changes_in_ten_steps(make_model: Make, backbone_key: str, arm: Any, queries: list[Query], targets: Any) -> None:
    """Five steps of each stage with an optimizer over *all* parameters; buffers are compared too."""
    model = make_model(backbone_key, arm.name).train()
    backbone = model.backbone
    before = {name: value.clone() for name, value in model.state_dict().items()}
    batch, audio = backbone.encode(queries), backbone.embed_audio(backbone.mel([query.waveform for query in queries]))
    targets = targets if arm.heads else {}
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.1)
    for stage in get_args(Stage):
        weights = stage_weights(arm, stage, LossSettings())
        for _ in range(5):
            optimizer.zero_grad()
            model(batch, audio, targets, weights, count_totals(batch, targets)).loss.backward()
            optimizer.step()
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == set(model.trainable_names())


@pytest.mark.parametrize("weights", [StageWeights(0.0, 0.0), StageWeights(1.0, 0.0), StageWeights(0.0, 1.0)])
def test_every_trainable_parameter_has_a_gradient_in_every_step(make_model: Make, queries: list[Query], weights: StageWeights) -> None:
    """DDP hangs if a parameter has no gradient; here no clip has a valid frame."""
    model = make_model("qwen2_audio", "coat")
    batch, audio = model.backbone.encode(queries), model.backbone.embed_audio(model.backbone.mel([query.waveform for query in queries]))
    targets: Any = {"reconstruction": [None, None], "pitch": [None, (torch.full((9, 4), float("nan")), torch.zeros(9, dtype=torch.bool))]}
    totals = count_totals(batch, targets)
    assert totals.clips == {"reconstruction": 0, "pitch": 0}
    losses = model(batch, audio, targets, weights, totals)
    losses.loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters() if parameter.requires_grad)
    assert all(torch.equal(p.grad, torch.zeros_like(p)) for p in model.heads.parameters())  # type: ignore[arg-type]
    assert [value.item() for value in losses.experts.values()] == [0.0, 0.0]
