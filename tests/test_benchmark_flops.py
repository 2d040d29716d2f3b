"""The arithmetic that the GPU benchmarks print is what torch counts; both scripts run on a small model."""

from __future__ import annotations

import argparse
from pathlib import Path
from types import ModuleType

import pytest
import torch

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"
MODULES = ("flops", "full_size", "machine", "gpu_training", "gpu_inference")


@pytest.fixture
def scripts() -> dict[str, ModuleType]:
    """Return the scripts by name."""
    from importlib import import_module

    return {name: import_module(f"benchmarks.{name}") for name in MODULES}


@pytest.mark.slow
@pytest.mark.parametrize("key", ["qwen2_audio", "qwen2_5_omni", "audio_flamingo_3"])
def test_the_arithmetic_of_a_step_is_what_torch_counts(scripts: dict[str, ModuleType], tmp_path: Path, key: str) -> None:
    from torch.utils.flop_counter import FlopCounterMode

    from coat_core.settings import load_settings

    flops, training = scripts["flops"], scripts["gpu_training"]
    options = argparse.Namespace(device="cpu", rows=2, seconds=5.0, cached=False, deterministic=False)
    settings = load_settings(BENCHMARKS.parent / "params.yaml")
    backbone = scripts["full_size"].build_lalm(key, "tiny", "cpu", torch.float32)
    # torch does not count fused attention on a CPU.
    backbone.model.set_attn_implementation("eager")
    ours = training.Ours(backbone, settings, options, tmp_path)
    ours.step(0)
    with FlopCounterMode(display=False) as counter:
        ours.step(1)
    positions, span = training.tower_work(backbone, 5.0)
    shapes = ours.shapes()
    shapes = flops.Shapes(shapes.rows, shapes.length, shapes.logit_rows, positions, span, 125)
    lora = sum(parameter.numel() for name, parameter in ours.model.named_parameters() if "lora_" in name)
    heads = sum(parameter.numel() for name, parameter in ours.model.heads.named_parameters() if ".enter." not in name)
    parts = flops.step_flops(backbone.model, lora, heads, shapes, checkpointing=False)
    masked_half = next(value for name, value in parts.items() if name.startswith("attention"))
    assert flops.useful(parts) + masked_half == pytest.approx(counter.get_total_flops(), rel=0.03)
    again = flops.step_flops(backbone.model, lora, heads, shapes, checkpointing=True)
    assert flops.useful(again) == flops.useful(parts)
    assert again["recomputed"] > 0


def test_peaks_by_name(scripts: dict[str, ModuleType]) -> None:
    peak = scripts["flops"].peak_flops
    names = ["NVIDIA H100 80GB HBM3", "NVIDIA H100 PCIe", "NVIDIA A100-SXM4-80GB", "Some GPU", ""]
    assert [peak(name) for name in names] == [989e12, 756e12, 312e12, None, None]


def test_a_twin_shares_every_weight_and_nothing_else(scripts: dict[str, ModuleType]) -> None:
    one = scripts["full_size"].build_lalm("qwen2_audio", "tiny", "cpu", torch.float32)
    other = scripts["full_size"].twin(one)
    assert all(a is b for a, b in zip(one.model.parameters(), other.model.parameters(), strict=True))
    assert other.model is not one.model
    other.tokenizer.add_tokens(["<|new|>"])
    assert len(other.tokenizer) == len(one.tokenizer) + 1
