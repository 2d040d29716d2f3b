"""Out-of-memory errors name the setting to change and its value."""

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
from coat_core.sizing.workload import InferenceWorkload, ModelShape, TrainingWorkload
from coat_core.training import train as train_module
from coat_core.training.train import _accelerator
from coat_core.training.trainer import Trainer
from tests.testing.tiny_training import World, one_step

SHAPE = ModelShape(8_000_000_000, 3584, 28, 28, 4, 128, 18944, 152064, 1280, 5120, 30.0, False)
WORKLOAD = TrainingWorkload(16, 30.0, 120, 64, "bfloat16", "bfloat16", False, modules=("q_proj", "v_proj"), rank=16)


def full(*arguments: Any, **options: Any) -> Any:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")


def test_the_advised_setting_fits() -> None:
    budget = 60_000_000_000
    assert training_memory(SHAPE, WORKLOAD).total > budget
    error = out_of_memory.training_error(SHAPE, WORKLOAD, budget, key="qwen2_5_omni")
    assert "set training.gradient_checkpointing: true" in str(error)
    assert training_memory(SHAPE, replace(WORKLOAD, gradient_checkpointing=True)).total < budget
    seconds = float(re.findall(r"training\.batch_seconds: ([\d.]+)", str(error))[0])
    rows = int(seconds // 30)
    assert 1 <= rows < 16
    assert (
        training_memory(SHAPE, replace(WORKLOAD, examples=rows)).total
        <= budget
        < training_memory(SHAPE, replace(WORKLOAD, examples=rows + 1)).total
    )


def test_advice_is_given_although_the_estimate_fits() -> None:
    budget = training_memory(SHAPE, WORKLOAD).total * 2
    assert "16 clips of up to 30.0 s" in str(out_of_memory.training_error(SHAPE, WORKLOAD, budget, key="x"))
    assert "next step: set training." in str(out_of_memory.training_error(SHAPE, WORKLOAD, budget, key="x"))


def test_a_model_too_large_for_one_example_needs_a_larger_device() -> None:
    workload = replace(WORKLOAD, examples=1, gradient_checkpointing=True)
    assert "use a larger device" in str(out_of_memory.training_error(SHAPE, workload, 10_000_000_000, key="x"))


def test_the_advised_batch_size_for_answering_fits() -> None:
    workload = InferenceWorkload(64, 30.0, 120, 64, "bfloat16")
    budget = inference_memory(SHAPE, replace(workload, examples=20)).total
    error = out_of_memory.inference_error(SHAPE, workload, budget, field="evaluation.batch_size")
    assert "next step: set evaluation.batch_size: 20" in str(error)


def test_a_training_step_that_does_not_fit(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Trainer, "_forward_backward", full)
    monkeypatch.setattr(device, "budget_bytes", lambda device: 10**12)
    with pytest.raises(
        OutOfMemoryError, match=r"ran out.*training\.batch_seconds.*3 clips of up to 1\.\d s.*next step: set training"
    ) as caught:
        one_step(
            world.folder,
            world.examples,
            tmp_path,
            [[0, 5, 7]],
            explain_memory=out_of_memory.explain_training_step,
            accumulation=1,
        )
    assert not caught.value.retryable
    assert isinstance(caught.value.__cause__, torch.OutOfMemoryError)


def test_an_audio_tower_that_does_not_fit(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    embed = Lalm.embed_audio
    monkeypatch.setattr(Lalm, "embed_audio", lambda self, mel: full() if int(mel.frames) == frames else embed(self, mel))
    example = world.examples[5]
    frames = -(-round(example.duration_s * 16_000) // 160)
    with pytest.raises(OutOfMemoryError, match=rf"tower ran out.*{example.id}.*a clip of {example.duration_s:.1f} s.*max_duration_s"):
        one_step(world.folder, world.examples, tmp_path, [[0, 5, 7]], accumulation=1)


def test_a_missing_device_is_rejected_before_anything_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    if torch.cuda.is_available():
        pytest.skip("this host has a GPU")
    settings = SimpleNamespace(runtime=RuntimeSettings(device="cuda"), training=TrainingSettings())
    with pytest.raises(DeviceError, match=r"no such device here.*runtime\.device.*cuda.*CUDA build"):
        _accelerator(settings)  # accelerate alone would use the CPU


def test_more_processes_than_gpus_are_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    """accelerate would put two processes on one GPU."""
    monkeypatch.setattr(train_module, "check_device", lambda *_: None)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    settings = SimpleNamespace(runtime=RuntimeSettings(device="cuda"), training=TrainingSettings(processes=8))
    with pytest.raises(DeviceError, match=r"fewer GPUs.*training\.processes; value: 8; allowed: 4 on this host"):
        _accelerator(settings)


def test_answering_that_does_not_fit(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone: Any = load_backbone("qwen2_audio", str(world.folder / "base"))
    monkeypatch.setattr(type(backbone.model), "generate", full)
    monkeypatch.setattr(device, "budget_bytes", lambda device: 10**12)
    examples = world.examples[:4]
    with pytest.raises(OutOfMemoryError, match=r"answering ran out.*4 clips of up to 0\.\d s.*set evaluation\.batch_size: [123]\b"):
        generate_responses(
            backbone,
            examples,
            world.corpus,
            EvaluationSettings(batch_size=4),
            progress=False,
            explain_memory=out_of_memory.explain_answering,
        )


def test_without_an_explanation_the_error_names_the_setting_alone(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Trainer, "_forward_backward", full)
    with pytest.raises(OutOfMemoryError, match=r"ran out.*training\.batch_seconds.*3 clips.*next step: lower training\.batch_seconds"):
        one_step(world.folder, world.examples, tmp_path, [[0, 5, 7]], accumulation=1)
    backbone: Any = load_backbone("qwen2_audio", str(world.folder / "base"))
    monkeypatch.setattr(type(backbone.model), "generate", full)
    with pytest.raises(OutOfMemoryError, match=r"answering ran out.*4 clips.*next step: lower evaluation\.batch_size"):
        generate_responses(backbone, world.examples[:4], world.corpus, EvaluationSettings(batch_size=4), progress=False)


def test_the_memory_budget_of_each_device(monkeypatch: pytest.MonkeyPatch) -> None:
    assert 10**8 < device.budget_bytes(torch.device("cpu")) < 10**14
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (3, 10))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 5)
    assert device.budget_bytes(torch.device("cuda", 0)) == 8
    with device.explain_out_of_memory(torch.device("cpu"), lambda budget: OutOfMemoryError("x")):
        pass
