"""The sections of `params.yaml`, in its order."""

from __future__ import annotations

import unicodedata
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from coat_core.settings.base import (
    BackboneKey,
    Count,
    Device,
    Difference,
    Dtype,
    Name,
    NonNegative,
    Positive,
    Section,
    Share,
    as_tuple,
    check_revision,
    name_problem,
)
from coat_core.settings.suites import SuiteSettings, check_suites


class CorpusSettings(Section):
    """The corpus: generated, or imported from existing audio."""

    kind: Literal["generated", "recordings", "manifest", "audiofolder"] = "generated"
    path: str | None = None
    """Folder of the recordings, the manifest file or the audio folder, relative to the workspace, or `s3://bucket/prefix` of one; null for
    `generated`."""
    roots: tuple[str, ...] = ()
    """Other folders from which a manifest or an audio folder may read audio, by absolute paths or by links; relative to the folder of the
    manifest. Files in the manifest's own folder are always allowed."""
    seed: int = 7
    clips_per_family: dict[Literal["train", "validation", "test"], Count]
    labelled_clips_per_family: Count | None = None
    """Training clips of each family that keep their answers; the rest are unlabelled (`answer: null`). null: all keep them."""
    questions_per_clip: Count = 2
    max_duration_s: Positive = 8.0

    @property
    def in_bucket(self) -> bool:
        """Whether the source is in an S3 bucket."""
        return self.kind != "generated" and (self.path or "").lower().startswith("s3://")

    @field_validator("roots", mode="before")
    @classmethod
    def _list_to_tuple(cls, value: Any) -> Any:
        return as_tuple(value)

    @model_validator(mode="after")
    def _path_when_needed(self) -> CorpusSettings:
        if self.kind != "generated" and not self.path:
            raise ValueError("`path` must name a folder, a file or s3://bucket/prefix unless kind is `generated`")
        scheme, sign, _ = (self.path or "").partition("://")
        if sign and not self.in_bucket:
            raise ValueError(f"`path` cannot be read from {scheme}://; allowed: a path on this host, or s3://bucket/prefix")
        if self.in_bucket and self.roots:
            raise ValueError("`roots` are folders of this host: with an S3 path, put the audio below the same prefix; allowed: []")
        return self


class ContractSettings(Section):
    """Limits of the data contract."""

    max_bad_share: Share = 0.01
    min_duration_s: Positive = 0.2
    max_duration_s: Positive = 30.0
    min_sample_rate_hz: Count = 8000
    max_sample_rate_hz: Count = 48000
    max_clipped_share: Share = 0.01
    silence_dbfs: Annotated[float, Field(le=0.0)] = -60.0
    family_imbalance: Annotated[float, Field(ge=1.0)] = 4.0
    """Largest allowed ratio between the example counts of two families within a split."""


class ExpertSettings(Section):
    """One expert; its key in params is the name of its store and its head."""

    implementation: Name
    checkpoint: str | None = None
    """A hub id, or a folder relative to the workspace, of a neural expert; null: the implementation's default."""
    revision: str | None = None
    """Commit of the hub repository; null with `checkpoint: null`: that of the default checkpoint."""
    allow_moving_revision: bool = False
    """Accept a branch or tag as `revision`, although its content may change under the same params."""
    layers: tuple[Count, ...] | None = None
    """Hidden layers to average (1 = first); null: the implementation's default."""
    window_s: Positive | None = None
    """Window of Whisper's encoder in seconds, at most its 30, which every shorter clip is padded to; null: 30. A short one is faster."""
    pool_frames: Count = 1
    """Consecutive frames of `speech_encoder` that are averaged; 2 halves the frame rate and the size of the store."""
    accept_licence: str | None = None
    """The exact name of a licence that forbids commercial use; an expert with such a checkpoint does not start without it."""
    device: Device = "cpu"
    dtype: Literal["float32", "bfloat16"] = "float32"
    batch_seconds: Positive | None = None
    """Most seconds of audio, padding included, in one batch of a neural expert; null: 120 on an accelerator, and 30 on a processor (20 at
    24 kHz), where `runtime.threads` batches are computed at once."""

    def seconds_per_batch(self, sample_rate_hz: int) -> float:
        """Return the most seconds of audio in one batch; on a CPU larger batches exceeded its cache and were slower (tiny encoders)."""
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
    """One LALM and its checkpoint."""

    base: str
    """A hub id, or a folder relative to the workspace."""
    revision: str | None = None
    """Commit of the hub repository; a hub id needs one."""
    allow_moving_revision: bool = False
    """Accept a branch or tag as `revision`, although its content may change under the same params."""
    dtype: Dtype = "float32"
    attention: Literal["sdpa", "eager", "flash_attention_2"] = "sdpa"
    long_audio: Literal["refuse", "windows"] = "refuse"
    """A clip longer than the single window of the audio tower (Qwen2-Audio, 30 s) is refused, or encoded window by window."""
    licence: str | None = None
    """Licence of the base, as named by its model card; it is copied into the release, the model card and the registry."""

    @model_validator(mode="after")
    def _pinned(self) -> BackboneSettings:
        check_revision(self.revision, allow_moving=self.allow_moving_revision)
        return self


class ThinkingSettings(Section):
    """The thinking block (the paper does not publish its length, placement and layer)."""

    tokens: Annotated[int, Field(ge=1, le=1500)] = 8
    placement: Literal["before_answer", "after_audio"] = "after_audio"
    rows: Literal["auto", "shared", "distinct"] = "auto"
    """Embeddings of the think tokens: one that is used K times (`shared`), K (`distinct`), or K if there are enough ids (`auto`)."""
    start: Literal["auto", "audio_end", "newline", "end_of_turn", "mean_audio", "mean_text"] = "auto"
    """Initial embedding of the trainable tokens; `auto`: the one with the lowest answer loss of the base on `start_items` examples."""
    start_items: Count = 64
    """Training examples on which the initial embeddings are compared."""
    warm_start_steps: Annotated[int, Field(ge=0)] = 0
    """Steps on the trainable tokens alone, towards the base's output distribution without the block, before the first stage."""
    read_layer: Count | None = None
    """Index of the decoder layer whose output is read (1 = first); null: round(2/3 · layers). Always below the last."""
    row_noise: NonNegative = 0.02
    """Standard deviation of the seeded noise on the initial embeddings, relative to their norm over √D."""
    reserved_tokens: tuple[str, ...] = (
        "<|object_ref_start|>",
        "<|object_ref_end|>",
        "<|box_start|>",
        "<|box_end|>",
        "<|quad_start|>",
        "<|quad_end|>",
    )
    """Existing special tokens that audio prompts never use; used when there are too few spare embedding rows."""

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
    time: Literal["cross_attention", "interpolation"] = "cross_attention"
    """How a frame reads the K states: by cross-attention from a query of the frame's time, or at its fixed place between two tokens."""


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


class RuntimeSettings(Section):
    """The compute device. `threads` is part of the key of every stage that declares it: one thread and two give different weights."""

    device: Device = "cpu"
    threads: Count = 1


class EvaluationSettings(Section):
    """Generation and scoring of responses."""

    split: Literal["validation", "test"] = "test"
    max_new_tokens: Count = 24
    batch_size: Count = 32
    limit_per_family: Count | None = None
    bootstrap_resamples: Annotated[int, Field(ge=100)] = 2000
    confidence: Annotated[float, Field(gt=0.5, lt=1.0)] = 0.95
    numeric_tolerance: NonNegative = 0.0
    seed: int = 11
    suites: dict[Name, SuiteSettings] = Field(default={})
    """Public benchmarks that every trial answers."""

    @field_validator("suites")
    @classmethod
    def _known_suites(cls, value: dict[str, SuiteSettings]) -> dict[str, SuiteSettings]:
        check_suites(value)
        return value


class ProbeSettings(Section):
    """Diagnostics: does the supervision reach the answer?"""

    trials: tuple[str, ...] = ()
    """`<arm>-<seed>` of the trials to probe; an arm with a block."""
    baseline: str | None = None
    """The trial that the probed ones are compared with, e.g. `block-0`; a trial that is itself probed is compared with nothing there. It is
    needed if `trials` names any."""
    items: Count = 200
    """Validation examples for knock-out, head skill and loss-based accuracy."""
    train_items: Count = 400
    """Training examples on which linear probes and fresh heads are fitted."""
    steps: Count = 120
    """Optimizer steps of a fresh head on the audio positions."""
    seed: int = 11

    @field_validator("trials", mode="before")
    @classmethod
    def _list_to_tuple(cls, value: Any) -> Any:
        return as_tuple(value)


class LatencySettings(Section):
    """Latency measurement, on merged models."""

    baseline: str = "sft-0"
    candidate: str = "coat-0"
    """The two trials that are measured alternately."""
    described: tuple[str, ...] = ()
    """Trials of arm `described` against which the candidate is timed, each until the end of its answer."""
    clips: Count = 8
    repeats: Count = 5
    new_tokens: Count = 16

    @field_validator("described", mode="before")
    @classmethod
    def _list_to_tuple(cls, value: Any) -> Any:
        return as_tuple(value)


class RegistrySettings(Section):
    """Registered models and the promotion gate."""

    candidate: str = "coat-0"
    """The trial of each backbone that is registered and evaluated by the gate."""
    names: dict[BackboneKey, str] = Field(
        default={
            "qwen2_audio": "coat-qwen2-audio",
            "qwen2_5_omni": "coat-qwen2.5-omni",
            "audio_flamingo_3": "coat-audio-flamingo-3",
        }
    )
    """Registered model of each backbone: letters, digits, `-`, `_`, `.` and single spaces, at most 200 characters."""
    min_accuracy: Share = 0.0
    max_unscored_share: Share = 0.5
    min_above_chance: Difference = 0.0
    """The lower bound of the interval of mean accuracy − chance must exceed this; -1: no comparison where chance is not known."""
    max_below_base: Share = 0.02
    """The lower bound of the paired interval of candidate − untouched base may be at most this far below zero; 1: no comparison."""
    max_slice_drop: Share = 0.05
    """A family may lose at most this much accuracy against the champion."""
    min_improvement: Difference = 0.0
    """The lower bound of the paired interval of candidate − champion must exceed this: 0 requires an improvement that the interval
    supports; a negative value accepts a candidate that is worse by at most this margin (see registry/gate.py)."""
    min_suites: dict[Name, Share] = Field(default={})
    """Key of `evaluation.suites` → smallest strict score; the champion's score on the same items counts as one of a family, too."""

    @field_validator("names")
    @classmethod
    def _usable_names(cls, value: dict[str, str]) -> dict[str, str]:
        mistakes = [f"{key}: {name!r} {problem}" for key, name in value.items() if (problem := name_problem(name))]
        owners: dict[str, list[str]] = {}
        for key, name in value.items():
            # A registry on MySQL does not distinguish case, and a folder may hold a name in another Unicode form.
            owners.setdefault(unicodedata.normalize("NFC", name).casefold(), []).append(key)
        mistakes += [f"{value[keys[0]]!r} is the name of {' and '.join(keys)}" for keys in owners.values() if len(keys) > 1]
        if mistakes:
            raise ValueError(
                "; ".join(mistakes) + ". Allowed: for each backbone another name of letters, digits, '-', '_', '.' and single spaces, that "
                "begins and ends with a letter or digit, at most 200 characters"
            )
        return value
