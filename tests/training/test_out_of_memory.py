"""Memory that runs out ends in one message with the lever and how far to pull it."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from coat_core import device
from coat_core.backbones.catalogue import load_backbone
from coat_core.backbones.lalm import Lalm
from coat_core.errors import DeviceError, OutOfMemoryError
from coat_core.evaluation.generate import generate_responses
from coat_core.settings import EvaluationSettings, RuntimeSettings, TrainingSettings
from coat_core.sizing import out_of_memory
from coat_core.sizing.memory import inference_memory, training_memory
from coat_core.sizing.workload import InferenceLoad, ModelShape, TrainingLoad
from coat_core.training.train import _accelerator
from coat_core.training.trainer import Trainer
from tests.testing.tiny_training import World, one_step

SHAPE = ModelShape(8_000_000_000, 3584, 28, 28, 4, 128, 18944, 152064, 1280, 5120, 30.0, False)
LOAD = TrainingLoad(16, 30.0, 120, 64, "bfloat16", "bf16", False, modules=("q_proj", "v_proj"), rank=16)


def full(*arguments: Any, **options: Any) -> Any:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")


def test_the_lever_named_would_have_fitted() -> None:
    budget = 60_000_000_000
    assert training_memory(SHAPE, LOAD).total > budget
    error = out_of_memory.training_error(SHAPE, LOAD, budget, key="qwen2_5_omni")
    assert "set training.gradient_checkpointing: true" in str(error)
    assert training_memory(SHAPE, replace(LOAD, gradient_checkpointing=True)).total < budget
    seconds = float(re.findall(r"training\.batch_seconds: ([\d.]+)", str(error))[0])
    rows = int(seconds // 30)
    assert 1 <= rows < 16
    assert (
        training_memory(SHAPE, replace(LOAD, examples=rows)).total
        <= budget
        < training_memory(SHAPE, replace(LOAD, examples=rows + 1)).total
    )


def test_an_estimate_that_fits_is_not_believed_over_the_device() -> None:
    roomy = training_memory(SHAPE, LOAD).total * 2
    assert "16 clips of up to 30.0 s" in str(out_of_memory.training_error(SHAPE, LOAD, roomy, key="x"))
    assert "next step: set training." in str(out_of_memory.training_error(SHAPE, LOAD, roomy, key="x"))


def test_a_model_that_is_too_large_for_one_example_says_so() -> None:
    load = replace(LOAD, examples=1, gradient_checkpointing=True)
    assert "take a larger device" in str(out_of_memory.training_error(SHAPE, load, 10_000_000_000, key="x"))


def test_the_batch_named_for_answering_would_have_fitted() -> None:
    load = InferenceLoad(64, 30.0, 120, 64, "bfloat16")
    budget = inference_memory(SHAPE, replace(load, examples=20)).total
    error = out_of_memory.inference_error(SHAPE, load, budget, field="evaluation.batch_size")
    assert "next step: set evaluation.batch_size: 20" in str(error)


def test_a_training_step_that_does_not_fit(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Trainer, "_forward_backward", full)
    monkeypatch.setattr(device, "budget_bytes", lambda device: 10**12)
    with pytest.raises(
        OutOfMemoryError, match=r"ran out.*training\.batch_seconds.*3 clips of up to 1\.\d s.*next step: set training"
    ) as caught:
        one_step(world.folder, world.examples, tmp_path, [[0, 5, 7]], accumulation=1)
    assert not caught.value.retryable
    assert isinstance(caught.value.__cause__, torch.OutOfMemoryError)


def test_a_tower_that_does_not_fit(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hear = Lalm.embed_audio
    monkeypatch.setattr(Lalm, "embed_audio", lambda self, mel: full() if int(mel.frames) == frames else hear(self, mel))
    example = world.examples[5]
    frames = -(-round(example.duration_s * 16_000) // 160)
    with pytest.raises(OutOfMemoryError, match=rf"tower ran out.*{example.id}.*a clip of {example.duration_s:.1f} s.*max_duration_s"):
        one_step(world.folder, world.examples, tmp_path, [[0, 5, 7]], accumulation=1)


def test_a_device_that_is_not_here_is_refused_before_anything_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    if torch.cuda.is_available():
        pytest.skip("this host has a GPU")
    settings = SimpleNamespace(runtime=RuntimeSettings(device="cuda"), training=TrainingSettings())
    with pytest.raises(DeviceError, match=r"no such device here.*runtime\.device.*cuda.*CUDA build"):
        _accelerator(settings)  # accelerate alone would compute on the processor


def test_answering_that_does_not_fit(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone: Any = load_backbone("qwen2_audio", str(world.folder / "base"))
    monkeypatch.setattr(type(backbone.model), "generate", full)
    monkeypatch.setattr(device, "budget_bytes", lambda device: 10**12)
    examples = world.examples[:4]
    with pytest.raises(OutOfMemoryError, match=r"answering ran out.*4 clips of up to 0\.\d s.*set evaluation\.batch_size: [123]\b"):
        generate_responses(backbone, examples, world.corpus, EvaluationSettings(batch_size=4), progress=False)


def test_the_host_counts_as_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    assert 10**8 < device.budget_bytes(torch.device("cpu")) < 10**14
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (3, 10))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 5)
    assert device.budget_bytes(torch.device("cuda", 0)) == 8
    with device.memory_watch(torch.device("cpu"), lambda budget: OutOfMemoryError("x")):
        pass
