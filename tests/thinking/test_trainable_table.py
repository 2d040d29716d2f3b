"""What trains: the exact names per backbone, arm and stage; and that nothing else ever changes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from coat_core.backbones.base import Query
from coat_core.errors import TrainingError
from coat_core.thinking.losses import StageWeights
from coat_core.thinking.model import ThinkingModel, count_totals
from coat_core.thinking.trainable import STAGES, part_of, trainable_table

Make = Callable[..., ThinkingModel]

LINEARS = [
    f"model.language_model.layers.{layer}.{block}.{name}"
    for layer in range(6)
    for block, names in (("self_attn", "qkvo"), ("mlp", ("gate", "up", "down")))
    for name in (f"{n}_proj" for n in names)
]
HEAD = [
    "norm.weight",
    *(f"{linear}.{end}" for linear in ("enter", "last_norm", "leave") for end in ("weight", "bias")),
    *(f"layers.0.{name}.{end}" for name in ("norm_in", "norm_mid", "qkv", "out", "up", "down") for end in ("weight", "bias")),
]
HEADS = [f"{key}.{name}" for key in ("pitch", "reconstruction") for name in HEAD]


def _expected(arm: str) -> set[str]:
    lora = {f"peft.base_model.model.{linear}.lora_{side}.default.weight" for linear in LINEARS for side in ("A", "B")}
    return {"base": set(), "sft": lora, "block": lora | {"rows"}, "coat": lora | {"rows"} | {f"heads.{name}" for name in HEADS}}[arm]


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("arm", ["base", "sft", "block", "coat"])
def test_table(arm: str, stage: Any) -> None:
    assert trainable_table(arm, stage, LINEARS, HEADS) == _expected(arm)
    assert trainable_table("coat_shuffled", stage, LINEARS, HEADS) == _expected("coat")


def test_an_unknown_arm_is_refused() -> None:
    with pytest.raises(TrainingError, match="unknown arm"):
        trainable_table("cot", "ground", LINEARS, HEADS)


@pytest.mark.parametrize("arm", ["sft", "block", "coat"])
def test_a_model_trains_exactly_the_table(make_model: Make, backbone_key: str, arm: str) -> None:
    model = make_model(backbone_key, arm)
    assert set(model.trainable_names()) == _expected(arm)
    assert sorted(model.linear_names()) == sorted(LINEARS)
    groups = model.parameter_groups()
    assert sum(map(len, groups.values())) == len(_expected(arm))
    assert list(groups) == list(dict.fromkeys(map(part_of, model.trainable_names())))
    assert set(groups) == {"sft": {"lora"}, "block": {"lora", "rows"}, "coat": {"lora", "rows", "heads"}}[arm]


@pytest.mark.parametrize("arm", ["sft", "block", "coat"])
def test_nothing_else_changes_in_ten_steps(make_model: Make, backbone_key: str, arm: str, queries: list[Query], targets: Any) -> None:
    """Five steps of each stage, by an optimizer that is handed *every* parameter; buffers count too."""
    model = make_model(backbone_key, arm).train()
    backbone = model.backbone
    before = {name: value.clone() for name, value in model.state_dict().items()}
    batch, audio = backbone.encode(queries), backbone.embed_audio(backbone.mel([query.waveform for query in queries]))
    targets = targets if arm == "coat" else {}
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.1)
    for stage in STAGES:
        weights = StageWeights(0.5 if stage == "ground" else 1.0, 1.0 if stage == "ground" else 0.3)
        for _ in range(5):
            optimizer.zero_grad()
            model(batch, audio, targets, weights, count_totals(batch, targets)).loss.backward()
            optimizer.step()
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == _expected(arm)


@pytest.mark.parametrize("weights", [StageWeights(0.0, 0.0), StageWeights(1.0, 0.0), StageWeights(0.0, 1.0)])
def test_every_trainable_parameter_joins_every_step(make_model: Make, queries: list[Query], weights: StageWeights) -> None:
    """DDP hangs if a parameter has no gradient; here no clip has a valid frame at all."""
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
