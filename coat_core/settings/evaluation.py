"""Sections of params about evaluation, latency and the registry."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from coat_core.settings.base import BackboneKey, Count, NonNegative, Section, Share


class EvaluationSettings(Section):
    """How responses are made and scored."""

    split: Literal["validation", "test"] = "test"
    max_new_tokens: Count = 24
    batch_size: Count = 32
    limit_per_family: Count | None = None
    bootstrap_resamples: Annotated[int, Field(ge=100)] = 2000
    confidence: Annotated[float, Field(gt=0.5, lt=1.0)] = 0.95
    numeric_tolerance: NonNegative = 0.0
    seed: int = 11


class LatencySettings(Section):
    """What the latency stage measures, on merged models."""

    baseline: str = "sft-0"
    candidate: str = "coat-0"
    """The two trials that are timed in turn."""
    clips: Count = 8
    repeats: Count = 5
    new_tokens: Count = 16


class RegistrySettings(Section):
    """The promotion gate."""

    names: dict[BackboneKey, str] = Field(
        default={
            "qwen2_audio": "coat-qwen2-audio",
            "qwen2_5_omni": "coat-qwen2.5-omni",
            "audio_flamingo_3": "coat-audio-flamingo-3",
        }
    )
    min_accuracy: Share = 0.0
    max_unscored_share: Share = 0.5
    max_slice_drop: Share = 0.05
    """A family may lose at most this much accuracy against the champion."""
    min_improvement: float = 0.0
    """The lower bound of the paired interval of candidate − champion must lie above this: 0 asks for an improvement that the interval
    supports, a negative value lets a candidate pass that is not worse by more than it (see registry/gate.py)."""
