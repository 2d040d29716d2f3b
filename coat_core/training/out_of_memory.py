"""What one forward of training asks of the device, for when it asks too much."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from torch import Tensor

from coat_core.backbones.base import Batch
from coat_core.corpus.examples import Example
from coat_core.errors import OutOfMemoryError
from coat_core.settings import TrainingSettings
from coat_core.sizing.memory import head_values
from coat_core.sizing.meta import shape_of
from coat_core.sizing.out_of_memory import training_error
from coat_core.sizing.workload import TrainingLoad
from coat_core.thinking.heads import ExpertHead
from coat_core.thinking.model import ThinkingModel


def forward_load(model: ThinkingModel, batch: Batch, audio: Sequence[Tensor], training: TrainingSettings) -> TrainingLoad:
    """Return the sizes of a forward and backward over one batch."""
    backbone: Any = model.backbone
    heads = [cast(ExpertHead, head) for head in model.heads.values()]
    longest = max(len(states) for states in audio)
    answer = int(batch.answer_mask.sum(dim=1).max())
    first = heads[0] if heads else None
    return TrainingLoad(
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
        rows=model.rows.numel() if model.block is not None else 0,
        heads=sum(parameter.numel() for parameter in model.heads.parameters()),
        head_values=head_values(first.enter.out_features, len(first.layers), [head.spec.dim for head in heads]) if first else 0,
        head_rate_hz=first.rate_hz if first else 25.0,
        head_max_frames=first.max_frames if first else 1500,
    )


def step_error(model: ThinkingModel, batch: Batch, audio: Sequence[Tensor], training: TrainingSettings, budget: int) -> OutOfMemoryError:
    """Return the error of a forward that did not fit into `budget` bytes, with the settings that would."""
    backbone: Any = model.backbone
    return training_error(shape_of(backbone), forward_load(model, batch, audio, training), budget, key=backbone.key)


def tower_error(example: Example, budget: int) -> OutOfMemoryError:
    """Return the error of an audio tower that could not hear a clip; it hears one at a time, so that no batch setting helps."""
    return OutOfMemoryError(
        f"the audio tower ran out of the device's memory on one clip ({example.id})",
        field="contract.max_duration_s",
        value=f"a clip of {example.duration_s:.1f} s",
        allowed=f"{budget / 1e9:.1f} GB on this device",
        next_step="stop what else runs on the device, set contract.max_duration_s below this clip's duration, or take a larger device",
    )
