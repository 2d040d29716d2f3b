"""Out-of-memory errors with the setting to change and its value."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

from torch import Tensor

from coat_core.backbones.base import SAMPLE_RATE_HZ, Backbone, Batch, Query
from coat_core.errors import OutOfMemoryError
from coat_core.settings import TrainingSettings
from coat_core.sizing.advice import advise_training
from coat_core.sizing.memory import head_values, inference_memory, training_memory
from coat_core.sizing.meta import shape_of
from coat_core.sizing.workload import InferenceWorkload, ModelShape, TrainingWorkload
from coat_core.thinking.heads import ExpertHead
from coat_core.thinking.model import ThinkingModel


def explain_training_step(
    model: ThinkingModel, batch: Batch, audio: Sequence[Tensor], training: TrainingSettings, budget: int
) -> OutOfMemoryError:
    """Return the error of a training forward that does not fit into `budget` bytes; it names settings that fit."""
    backbone: Any = model.backbone
    return training_error(shape_of(backbone), forward_workload(model, batch, audio, training), budget, key=backbone.key)


def explain_answering(backbone: Backbone, queries: Sequence[Query], max_new_tokens: int, budget: int) -> OutOfMemoryError:
    """Return the error of a `generate` call that does not fit into `budget` bytes; it names a batch size that fits."""
    lalm: Any = backbone
    prompts = backbone.encode(queries, generation=True).input_ids.shape[1]
    audio_s = max(len(query.waveform) for query in queries) / SAMPLE_RATE_HZ
    dtype = str(lalm.model.dtype).removeprefix("torch.")
    text = max(prompts - round(audio_s * backbone.audio_token_rate_hz), 0)
    workload = InferenceWorkload(len(queries), audio_s, text, max_new_tokens, dtype)
    return inference_error(shape_of(lalm), workload, budget, field="evaluation.batch_size")


def forward_workload(model: ThinkingModel, batch: Batch, audio: Sequence[Tensor], training: TrainingSettings) -> TrainingWorkload:
    """Return the workload of a forward and backward pass over one batch."""
    backbone: Any = model.backbone
    heads = [cast(ExpertHead, head) for head in model.heads.values()]
    longest = max(len(states) for states in audio)
    answer = int(batch.answer_mask.sum(dim=1).max())
    first = heads[0] if heads else None
    return TrainingWorkload(
        examples=len(audio),
        audio_s=longest / backbone.audio_token_rate_hz,
        prompt_tokens=max(batch.input_ids.shape[1] - longest - answer, 0),
        answer_tokens=answer,
        dtype=str(backbone.model.dtype).removeprefix("torch."),
        precision=training.precision,
        gradient_checkpointing=training.gradient_checkpointing,
        accumulation=training.accumulation,
        modules=model.lora.modules,
        rank=model.lora.rank,
        dropout=model.lora.dropout > 0,
        rows=model.trainable_tokens.numel() if model.block is not None else 0,
        heads=sum(parameter.numel() for parameter in model.heads.parameters()),
        head_values=head_values(first.enter.out_features, len(first.layers), [head.spec.dim for head in heads]) if first else 0,
        head_rate_hz=first.rate_hz if first else 25.0,
        head_max_frames=first.max_frames if first else 1500,
        shards=training.shards,
    )


def training_error(shape: ModelShape, workload: TrainingWorkload, budget: int, *, key: str) -> OutOfMemoryError:
    """Return the error of a training forward that ran out of memory, with the settings that fit."""
    estimate = training_memory(shape, workload).total
    half = training_memory(shape, replace(workload, examples=-(-workload.examples // 2))).total
    advice = advise_training(shape, workload, min(budget, _corrected_budget(estimate, half)), base=f"backbones.{key}")
    changes = "; or ".join(map(str, advice.changes))
    return OutOfMemoryError(
        "a training step ran out of the device's memory",
        field="training.batch_seconds",
        value=f"{workload.examples} clips of up to {workload.audio_s:.1f} s in one forward, about {estimate / 1e9:.1f} GB",
        allowed=f"{budget / 1e9:.1f} GB on this device",
        next_step=f"set {advice.recommended} ({changes})" if advice.recommended else "cut the clips shorter, or use a larger device",
    )


def inference_error(shape: ModelShape, workload: InferenceWorkload, budget: int, *, field: str) -> OutOfMemoryError:
    """Return the error of a `generate` call that ran out of memory, with the batch size that fits."""
    estimate = inference_memory(shape, workload).total
    half = inference_memory(shape, replace(workload, examples=-(-workload.examples // 2))).total
    limit = min(budget, _corrected_budget(estimate, half))
    fitting = [rows for rows in range(1, workload.examples) if inference_memory(shape, replace(workload, examples=rows)).total <= limit]
    next_step = f"set {field}: {fitting[-1]}" if fitting else "cut the clips shorter, set dtype: bfloat16, or use a larger device"
    return OutOfMemoryError(
        "answering ran out of the device's memory",
        field=field,
        value=f"{workload.examples} clips of up to {workload.audio_s:.1f} s at once, about {estimate / 1e9:.1f} GB",
        allowed=f"{budget / 1e9:.1f} GB on this device",
        next_step=next_step,
    )


def _corrected_budget(estimate: int, half: int) -> int:
    """Return an upper limit of the budget for a workload that ran out of memory: half its examples fit, all of them do not."""
    return min((estimate + half) // 2, estimate - 1)
