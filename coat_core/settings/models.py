"""Sections of params about models: experts, backbones, the thinking block, heads and LoRA."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from coat_core.settings.base import Count, Device, Dtype, Name, NonNegative, Positive, Section, Share, as_tuple, check_revision


class ExpertSettings(Section):
    """One expert; its key in params is the name of its store and its head."""

    implementation: Name
    checkpoint: str | None = None
    """A hub id, or a folder relative to the workspace, of a neural expert; null: the implementation's own default."""
    revision: str | None = None
    """Commit of the hub repository; null with `checkpoint: null`: the default's."""
    allow_moving_revision: bool = False
    """Whether `revision` may be a branch or tag, whose content may change under the same params."""
    layers: tuple[Count, ...] | None = None
    """Hidden layers whose mean is taken (1 = first); null: the implementation's own choice."""
    accept_licence: str | None = None
    """The licence of a checkpoint that forbids commercial use, word for word: without it such an expert does not start."""
    device: Device = "cpu"
    dtype: Literal["float32", "bfloat16"] = "float32"
    batch_seconds: Positive | None = None
    """Most seconds of audio, padding included, in one batch of a neural expert; null: 120 on an accelerator, and 30 on a processor (20 at
    24 kHz), where `runtime.threads` batches are heard at once."""

    def heard_seconds(self, sample_rate_hz: int) -> float:
        """Return the seconds of audio in one batch: on a processor more left its cache and was slower (tiny encoders)."""
        return self.batch_seconds or (480_000 / sample_rate_hz if self.device == "cpu" else 120.0)

    @field_validator("layers", mode="before")
    @classmethod
    def _list_to_tuple(cls, value: Any) -> Any:
        return as_tuple(value)

    @model_validator(mode="after")
    def _pinned(self) -> ExpertSettings:
        check_revision(self.revision, allow_moving=self.allow_moving_revision)
        return self


class BackboneSettings(Section):
    """One LALM: where its checkpoint is."""

    base: str
    """A hub id, or a folder relative to the workspace."""
    revision: str | None = None
    """Commit of the hub repository; a hub id needs one."""
    allow_moving_revision: bool = False
    """Whether `revision` may be a branch or tag, whose content may change under the same params."""
    dtype: Dtype = "float32"
    attention: Literal["sdpa", "eager", "flash_attention_2"] = "sdpa"
    long_audio: Literal["refuse", "windows"] = "refuse"
    """What happens to a clip longer than the tower's one window (Qwen2-Audio, 30 s): it is refused, or heard window by window."""
    licence: str | None = None
    """The base's licence, as its model card names it; it is carried into the release, the model card and the registry."""

    @model_validator(mode="after")
    def _pinned(self) -> BackboneSettings:
        check_revision(self.revision, allow_moving=self.allow_moving_revision)
        return self


class ThinkingSettings(Section):
    """The thinking block (the paper leaves length, place and layer unsaid)."""

    tokens: Annotated[int, Field(ge=1, le=1500)] = 25
    placement: Literal["before_answer", "after_audio"] = "after_audio"
    rows: Literal["shared", "distinct"] = "shared"
    read_layer: Count | None = None
    """Index of the decoder layer whose output is read (1 = first); null: round(2/3 · layers). Always below the last."""
    row_noise: NonNegative = 0.02
    """Standard deviation of the seeded noise on new rows, relative to the mean row norm over √D."""
    reserved_tokens: tuple[str, ...] = (
        "<|object_ref_start|>",
        "<|object_ref_end|>",
        "<|box_start|>",
        "<|box_end|>",
        "<|quad_start|>",
        "<|quad_end|>",
    )
    """Existing special tokens that audio prompts never use, taken when spare embedding rows do not suffice."""

    @field_validator("reserved_tokens", mode="before")
    @classmethod
    def _list_to_tuple(cls, value: Any) -> Any:
        return as_tuple(value)


class HeadSettings(Section):
    """Projection heads, one per expert, dropped at inference."""

    width: Count = 64
    layers: Count = 1
    attention_heads: Count = 4
    dropout: Share = 0.0
    target_rate_hz: Positive = 25.0
    max_frames: Count = 1500


class LoraSettings(Section):
    """Low-rank adaptation of the language model's linear layers."""

    rank: Count = 16
    alpha: Count = 32
    dropout: Share = 0.0
    modules: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")

    @field_validator("modules", mode="before")
    @classmethod
    def _list_to_tuple(cls, value: Any) -> Any:
        return as_tuple(value)
