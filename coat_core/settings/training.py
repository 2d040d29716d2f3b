"""Sections of params about compute, losses and training."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from coat_core.settings.base import Count, Device, NonNegative, Positive, Section


class RuntimeSettings(Section):
    """Where a stage computes. `threads` is part of every stage key: one thread and two give different weights."""

    device: Device = "cpu"
    threads: Count = 1


class LossSettings(Section):
    """Weights of the losses."""

    ground_distill: NonNegative = 1.0
    ground_answer: NonNegative = 1.0
    """Weight of the answer loss of `coat` in the ground stage: distillation leads, but the answer is not forgotten."""
    respond_distill: NonNegative = 0.3
    """λ of the respond stage."""
    expert_weights: dict[str, NonNegative] = Field(default={})
    """Weight of each expert by its key; 1 where nothing is said."""
    smooth_l1_beta: Positive = 1.0
    cosine: NonNegative = 1.0
    voicing: NonNegative = 1.0


class TrainingSettings(Section):
    """The two stages and the optimizer."""

    ground_steps: Annotated[int, Field(ge=0)] = 100
    respond_steps: Count = 200
    batch_size: Count = 16
    """Examples per forward and process."""
    batch_seconds: Positive | None = None
    """Most seconds of audio, padding included, in one forward: a batch beyond it is cut into several; null: never cut. It bounds memory and
    changes no gradient, for losses are divided by what the whole step holds."""
    accumulation: Count = 1
    learning_rate: Positive = 1e-3
    rows_learning_rate: Positive = 1e-3
    heads_learning_rate: Positive = 1e-3
    warmup_steps: Annotated[int, Field(ge=0)] = 20
    weight_decay: NonNegative = 0.0
    max_gradient_norm: Positive = 1.0
    checkpoint_every: Count = 100
    length_groups: Count = 8
    """Batches are cut from windows of this many batches sorted by length; 1 switches grouping off."""
    precision: Literal["no", "bf16", "fp16"] = "no"
    gradient_checkpointing: bool = False
    tower_cache_mb: Annotated[int, Field(ge=0)] = 1024
    """Memory for outputs of the frozen audio tower, so that each clip passes it once; 0 switches the cache off."""
