"""`params.yaml` as frozen, strict types; every mistake is reported at once, each with its path and what is allowed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from coat_core.errors import SettingsError

BackboneKey = Literal["qwen2_audio", "qwen2_5_omni", "audio_flamingo_3"]
Arm = Literal["base", "sft", "block", "coat", "coat_shuffled"]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[float, Field(gt=0.0)]
NonNegative = Annotated[float, Field(ge=0.0)]
Count = Annotated[int, Field(ge=1)]
Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]

_TRIAL = re.compile(r"^(base|sft|block|coat|coat_shuffled)-(\d+)$")


class Section(BaseModel):
    """A part of params: frozen, no unknown keys, no silent conversion (an int is taken where a float is meant)."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class RuntimeSettings(Section):
    """Where a stage computes. `threads` is part of every stage key: one thread and two give different weights."""

    device: Literal["cpu", "cuda"] = "cpu"
    threads: Count = 1


class CorpusSettings(Section):
    """What the corpus stage makes."""

    kind: Literal["generated", "recordings", "manifest", "audiofolder"] = "generated"
    path: str | None = None
    """Folder of the recordings, the manifest file or the audio folder, relative to the workspace; null for `generated`."""
    seed: int = 7
    clips_per_family: dict[Literal["train", "validation", "test"], Count]
    questions_per_clip: Count = 2
    max_duration_s: Positive = 8.0

    @model_validator(mode="after")
    def _path_when_needed(self) -> CorpusSettings:
        if self.kind != "generated" and not self.path:
            raise ValueError("`path` must name a folder or file unless kind is `generated`")
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


class BackboneSettings(Section):
    """One LALM: where its checkpoint is."""

    base: str
    """A hub id, or a folder relative to the workspace."""
    revision: str | None = None
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    licence: str | None = None
    """The base's licence, as its model card names it; it is carried into the release, the model card and the registry."""


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
        return tuple(value) if isinstance(value, list) else value


class HeadSettings(Section):
    """Projection heads, one per expert, dropped at inference."""

    width: Count = 64
    layers: Count = 1
    attention_heads: Count = 4
    dropout: Share = 0.0
    target_rate_hz: Positive = 25.0
    max_frames: Count = 1500


class LossSettings(Section):
    """Weights of the losses."""

    ground_distill: NonNegative = 1.0
    ground_answer: NonNegative = 1.0
    """Weight of the answer loss of `coat` in the ground stage: distillation leads, but the answer is not forgotten."""
    respond_distill: NonNegative = 0.3
    """λ of the respond stage."""
    expert_weights: dict[str, NonNegative] = {}
    """Weight of each expert by its key; 1 where nothing is said."""
    smooth_l1_beta: Positive = 1.0
    cosine: NonNegative = 1.0
    voicing: NonNegative = 1.0


class LoraSettings(Section):
    """Low-rank adaptation of the language model's linear layers."""

    rank: Count = 16
    alpha: Count = 32
    dropout: Share = 0.0
    modules: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")

    @field_validator("modules", mode="before")
    @classmethod
    def _list_to_tuple(cls, value: Any) -> Any:
        return tuple(value) if isinstance(value, list) else value


class TrainingSettings(Section):
    """The two stages and the optimizer."""

    ground_steps: Annotated[int, Field(ge=0)] = 100
    respond_steps: Count = 200
    batch_size: Count = 16
    """Examples per forward and process."""
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

    names: dict[BackboneKey, str] = {
        "qwen2_audio": "coat-qwen2-audio",
        "qwen2_5_omni": "coat-qwen2.5-omni",
        "audio_flamingo_3": "coat-audio-flamingo-3",
    }
    min_accuracy: Share = 0.0
    max_unscored_share: Share = 0.5
    max_slice_drop: Share = 0.05
    """A family may lose at most this much accuracy against the champion."""
    min_improvement: float = 0.0
    """The lower bound of the paired interval of candidate − champion must lie above this: 0 asks for an improvement that the interval
    supports, a negative value lets a candidate pass that is not worse by more than it (see registry/gate.py)."""


class Settings(Section):
    """All of `params.yaml`."""

    runtime: RuntimeSettings = RuntimeSettings()
    backbones: Annotated[dict[BackboneKey, BackboneSettings], Field(min_length=1)]
    experts: Annotated[dict[Name, ExpertSettings], Field(min_length=1)]
    trials: Annotated[tuple[str, ...], Field(min_length=1)]
    """`<arm>-<seed>` of every training; `base-0` is the untouched model."""
    corpus: CorpusSettings
    contract: ContractSettings = ContractSettings()
    thinking: ThinkingSettings = ThinkingSettings()
    heads: HeadSettings = HeadSettings()
    losses: LossSettings = LossSettings()
    lora: LoraSettings = LoraSettings()
    training: TrainingSettings = TrainingSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    latency: LatencySettings = LatencySettings()
    registry: RegistrySettings = RegistrySettings()

    @field_validator("trials", mode="before")
    @classmethod
    def _list_to_tuple(cls, value: Any) -> Any:
        return tuple(value) if isinstance(value, list) else value

    @field_validator("trials")
    @classmethod
    def _trial_names(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            parse_trial(name)
        if len(set(value)) != len(value):
            raise ValueError("a trial is named twice")
        return value

    @model_validator(mode="after")
    def _across_sections(self) -> Settings:
        unknown = set(self.losses.expert_weights) - set(self.experts)
        if unknown:
            raise ValueError(f"losses.expert_weights names {sorted(unknown)}; allowed: {sorted(self.experts)}")
        for field in ("baseline", "candidate"):
            if getattr(self.latency, field) not in self.trials:
                raise ValueError(f"latency.{field} is {getattr(self.latency, field)!r}; allowed: {', '.join(self.trials)}")
        return self


def parse_trial(name: str) -> tuple[Arm, int]:
    """Split `<arm>-<seed>`.

    Raises:
        ValueError: the name has another form.
    """
    match = _TRIAL.match(name)
    if not match:
        raise ValueError(f"{name!r} is not <arm>-<seed> with an arm of base, sft, block, coat, coat_shuffled and a whole seed")
    return match[1], int(match[2])  # type: ignore[return-value]


def parse_settings(values: Any, source: str = "params.yaml") -> Settings:
    """Check raw values against the types above.

    Raises:
        SettingsError: anything does not hold; the message has a line per mistake, with its path, value and what is allowed.
    """
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        lines = [_mistake(e) for e in error.errors()]  # type: ignore[arg-type]
        raise SettingsError(
            f"{source}: {len(lines)} mistake{'s' * (len(lines) > 1)}\n" + "\n".join(f"  {line}" for line in lines) + "\n",
            next_step=f"mend {source} and run the same command again",
        ) from None


def load_settings(path: Path = Path("params.yaml")) -> Settings:
    """Read and check a params file.

    Raises:
        SettingsError: the file is missing, is not YAML, or does not hold.
    """
    try:
        values = yaml.safe_load(path.read_text())
    except OSError as error:
        raise SettingsError(
            f"cannot read params: {error}",
            field="params",
            value=str(path),
            next_step="run in a workspace, or make one with `coat workspace`",
        ) from error
    except yaml.YAMLError as error:
        raise SettingsError(f"params are not YAML: {error}", field="params", value=str(path)) from error
    return parse_settings(values, str(path))


def _mistake(error: dict[str, Any]) -> str:
    path = ".".join(str(part) for part in error["loc"] if part != "[key]") or "params"
    if error["type"] == "extra_forbidden":
        return f"{path}: unknown key; allowed: {', '.join(_siblings(error['loc']))}"
    shown = repr(error["input"])
    return f"{path}: {error['msg']} (got {shown[:80]})"


def _siblings(location: tuple[str | int, ...]) -> list[str]:
    """Names allowed beside an unknown key."""
    section: Any = Settings
    for part in location[:-1]:
        if not (isinstance(section, type) and issubclass(section, BaseModel)):
            section = section.__args__[1] if getattr(section, "__args__", None) else None
            continue
        field = section.model_fields.get(str(part))
        section = field.annotation if field else None
    while section is not None and not isinstance(section, type):
        section = section.__args__[1] if getattr(section, "__args__", None) and len(section.__args__) > 1 else None
    return sorted(section.model_fields) if isinstance(section, type) and issubclass(section, BaseModel) else ["(see params.yaml)"]
