"""Running out of the device's memory, said with the lever to pull and how far."""

from __future__ import annotations

from dataclasses import replace

from coat_core.errors import OutOfMemoryError
from coat_core.sizing.advice import advise_training
from coat_core.sizing.memory import inference_memory, training_memory
from coat_core.sizing.workload import InferenceLoad, ModelShape, TrainingLoad


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
