"""Models, queries and targets for tests of the thinking block."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from coat_core.backbones.base import Backbone, Query
from coat_core.backbones.catalogue import load_backbone
from coat_core.experts.base import ExpertSpec
from coat_core.settings import HeadSettings, LoraSettings, LossSettings, ThinkingSettings, find_arm
from coat_core.thinking.block import ThinkingBlock
from coat_core.thinking.heads import build_heads
from coat_core.thinking.model import ThinkingModel

HEADS = HeadSettings(width=16, attention_heads=2)
LORA = LoraSettings(rank=2, alpha=4)
LOSSES = LossSettings()


def spec(target: str, dim: int, rate_hz: float = 100.0) -> ExpertSpec:
    return ExpertSpec(
        "made_up", "reconstruction", target, dim, rate_hz, 16000, "1", "CC0-1.0", True, "tests", tuple(f"d{i}" for i in range(dim))
    )


SPECS = {"reconstruction": spec("representation", 3), "pitch": spec("pitch_bins", 4)}


@pytest.fixture
def make_backbone(tiny_bases: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Backbone]:
    import transformers

    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(1)
    return lambda key: load_backbone(key, str(tiny_bases[key]))


@pytest.fixture
def make_model(make_backbone: Callable[[str], Backbone]) -> Callable[..., ThinkingModel]:
    """Return a function (key, arm, **thinking settings) → model; `trained=True` adds random values to the trainable parameters."""

    def make(
        key: str, arm: str = "coat", *, seed: int = 0, trained: bool = False, lora: LoraSettings = LORA, **thinking: Any
    ) -> ThinkingModel:
        backbone = make_backbone(key)
        parts = find_arm(arm)
        block = ThinkingBlock.install(backbone, ThinkingSettings(**{"tokens": 4, **thinking})) if parts.block else None
        specs = SPECS if parts.heads else {}
        normalisers = {name: (torch.full((s.dim,), 0.5), torch.full((s.dim,), 2.0)) for name, s in specs.items()}
        model = ThinkingModel(backbone, block, build_heads(specs, normalisers, backbone.hidden_size, HEADS, seed), lora, LOSSES, seed)
        if trained:
            generator = torch.Generator().manual_seed(5)
            with torch.no_grad():
                for parameter in (p for p in model.parameters() if p.requires_grad):
                    # At this scale, LoRA's outputs are about as large as those of the random base.
                    parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
        return model.eval()

    return make


@pytest.fixture
def queries() -> list[Query]:
    generator = np.random.default_rng(3)
    rows = [
        ("clip0", 12_000, "What sound is this?", "dog bark"),
        ("clip1", 20_000, "Is it higher or lower? Choices: higher, lower.", "lower"),
    ]
    return [Query(key, (generator.standard_normal(n) * 0.1).astype(np.float32), text, answer, key) for key, n, text, answer in rows]


@pytest.fixture
def targets() -> dict[str, list[tuple[torch.Tensor, torch.Tensor] | None]]:
    """Return targets of both queries; the second clip has no target for pitch."""
    generator = torch.Generator().manual_seed(1)
    bins = torch.rand((75, 3), generator=generator)
    pitch = torch.cat([bins / bins.sum(1, keepdim=True), torch.ones(75, 1)], dim=1)
    return {
        "reconstruction": [(torch.randn((n, 3), generator=generator), torch.ones(n, dtype=torch.bool)) for n in (75, 125)],
        "pitch": [(pitch, torch.ones(75, dtype=torch.bool)), None],
    }
