"""The sections `losses` and `training` of `params.yaml`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from coat_core.settings.base import Count, Dtype, NonNegative, Positive, Section, Share, Strategy


class LossSettings(Section):
    """Weights of the losses."""

    ground_distill: NonNegative = 1.0
    ground_answer: NonNegative = 1.0
    """Weight of the answer loss in the ground stage, for arms with heads."""
    respond_distill: NonNegative = 0.3
    """λ: weight of the distillation losses in the respond stage."""
    expert_weights: dict[str, NonNegative] = Field(default={})
    """Weight of each expert by key; default 1."""
    balance: Literal["constant", "none"] = "constant"
    """`constant`: each expert's loss is divided by that of its constant predictor, so that 1 means no information."""
    distill_decay: Share = 0.0
    """Share of the respond stage, at its end, over which `respond_distill` falls linearly to zero."""
    max_share: Annotated[float, Field(gt=0.0, lt=1.0)] | None = None
    """Largest share of the distillation in the norm of LoRA's gradient; the distillation is scaled down to it. null: no limit."""
    audio_share: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Share of each expert's loss that its head takes at the audio positions; the rest is taken at the block (arms with a block)."""
    smooth_l1_beta: Positive = 1.0
    cosine: NonNegative = 1.0
    voicing: NonNegative = 1.0


class TrainingSettings(Section):
    """The two stages and the optimizer."""

    ground_steps: Annotated[int, Field(ge=0)] = 100
    respond_steps: Count = 200
    processes: Count = 1
    """Processes of a training, one for each GPU. A step takes `processes · batch_size · accumulation` examples."""
    strategy: Strategy = Field(default_factory=lambda validated: "single" if validated.get("processes") == 1 else "ddp")
    """`single`: one process. `ddp`: each process holds the whole base. `fsdp`: the language model's frozen weights are sharded over the
    processes. Default: `single` with one process, else `ddp`."""
    batch_size: Count = 16
    """Examples per forward and process."""
    batch_seconds: Positive | None = None
    """Maximum seconds of audio, padding included, in one forward: a larger batch is split; null: never split. This bounds memory and
    changes no gradient, because losses are divided by the counts of the whole step."""
    accumulation: Count = 1
    learning_rate: Positive = 1e-3
    rows_learning_rate: Positive = 1e-3
    rows_learning_rate_unit: Literal["absolute", "relative"] = "absolute"
    """`relative`: `rows_learning_rate` is a share of the root mean square of the initial trainable tokens."""
    heads_learning_rate: Positive = 1e-3
    warmup_steps: Annotated[int, Field(ge=0)] = 20
    weight_decay: NonNegative = 0.0
    max_gradient_norm: Positive = 1.0
    clip: Literal["group", "global"] = "group"
    """Whether `max_gradient_norm` limits the gradient of each parameter group (LoRA, trainable tokens, heads) or that of all together."""
    unlabelled_batch_size: Annotated[int, Field(ge=0)] = 0
    """Unlabelled examples added to each forward of an arm with heads; they take part in distillation only. 0: they are not used."""
    bottleneck: Share = 0.0
    """Probability, at the first step, that the question and the answer of a step cannot attend to the audio (arms with a block)."""
    bottleneck_share: Share = 0.5
    """Share of all steps over which this probability falls linearly to zero."""
    checkpoint_every: Count = 100
    validate_every: Annotated[int, Field(ge=0)] = 100
    """Steps between two measurements of the answer loss on validation examples, which change no weight; 0: none."""
    validation_items: Count = 64
    """Labelled validation examples for it, drawn once: the same ones for every arm and seed."""
    length_groups: Count = 8
    """Batches are cut from windows of this many batches, sorted by length; 1 disables grouping."""
    precision: Dtype = "float32"
    """Precision of the computation; the weights have the dtype of their backbone."""
    gradient_checkpointing: bool = False
    tower_cache_mb: Annotated[int, Field(ge=0)] = 1024
    """Memory (MB) for outputs of the frozen audio tower, so that each clip is encoded once; 0 disables the cache. The stage `train` reads
    the audio store instead."""

    @property
    def shards(self) -> int:
        """Number of processes over which the base is sharded; 1: every process holds it whole."""
        return self.processes if self.strategy == "fsdp" else 1

    @model_validator(mode="after")
    def _strategy_of_processes(self) -> TrainingSettings:
        if (self.strategy == "single") != (self.processes == 1):
            allowed = "single (or training.processes above 1)" if self.processes == 1 else "ddp, fsdp (or training.processes: 1)"
            raise ValueError(f"strategy is {self.strategy} with training.processes: {self.processes}; allowed: {allowed}")
        return self

    @field_validator("precision", mode="before")
    @classmethod
    def _new_name(cls, value: Any) -> Any:
        new = {"no": "float32", "False": "float32", "bf16": "bfloat16", "fp16": "float16"}.get(str(value))
        if new is not None:
            raise ValueError(f"this value was renamed: write {new}; allowed: float32, bfloat16, float16")
        return value
