"""Running out of the device's memory, said with the lever to pull and how far."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch

from coat_core.backbones.levers import advise_training
from coat_core.backbones.loads import InferenceLoad, ModelShape, TrainingLoad
from coat_core.backbones.memory import inference_memory, training_memory
from coat_core.errors import OutOfMemoryError


@contextmanager
def memory_watch(device: torch.device, explain: Callable[[int], OutOfMemoryError]) -> Iterator[None]:
    """Turn the device's own error into one that a user can mend.

    Args:
        device: where the block computes.
        explain: gets the bytes that this process may use there, and returns the error to raise.

    Raises:
        OutOfMemoryError: memory ran out in the block.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise explain(budget_bytes(device)) from error


def release_memory() -> None:
    """Give back what a model that nobody holds any more took."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def budget_bytes(device: torch.device) -> int:
    """Return the bytes of the device that are this process's or free; those of the host for a processor."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(free + torch.cuda.memory_reserved(device))
    import psutil

    return int(psutil.virtual_memory().total)


def training_error(shape: ModelShape, load: TrainingLoad, budget: int, *, key: str) -> OutOfMemoryError:
    """Return the error of a training forward that did not fit, with the settings that would."""
    estimate = training_memory(shape, load).total
    half = training_memory(shape, replace(load, examples=-(-load.examples // 2))).total
    advice = advise_training(shape, load, min(budget, _doubted(estimate, half)), base=f"backbones.{key}")
    levers = "; or ".join(map(str, advice.levers))
    return OutOfMemoryError(
        "a training step ran out of the device's memory",
        field="training.batch_seconds",
        value=f"{load.examples} clips of up to {load.audio_s:.1f} s in one forward, about {estimate / 1e9:.1f} GB",
        allowed=f"{budget / 1e9:.1f} GB on this device",
        next_step=f"set {advice.recommended} ({levers})" if advice.recommended else "cut the clips shorter, or take a larger device",
    )


def inference_error(shape: ModelShape, load: InferenceLoad, budget: int, *, field: str) -> OutOfMemoryError:
    """Return the error of a `generate` that did not fit, with the batch that would."""
    estimate = inference_memory(shape, load).total
    half = inference_memory(shape, replace(load, examples=-(-load.examples // 2))).total
    limit = min(budget, _doubted(estimate, half))
    fitting = [rows for rows in range(1, load.examples) if inference_memory(shape, replace(load, examples=rows)).total <= limit]
    way = f"set {field}: {fitting[-1]}" if fitting else "cut the clips shorter, set dtype: bfloat16, or take a larger device"
    return OutOfMemoryError(
        "answering ran out of the device's memory",
        field=field,
        value=f"{load.examples} clips of up to {load.audio_s:.1f} s at once, about {estimate / 1e9:.1f} GB",
        allowed=f"{budget / 1e9:.1f} GB on this device",
        next_step=way,
    )


def _doubted(estimate: int, half: int) -> int:
    """Return what there is taken to be although the estimate says that all fits: memory did run out, half the rows should go."""
    return min((estimate + half) // 2, estimate - 1)
