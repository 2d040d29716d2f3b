"""`coat doctor --published BACKBONE`: what a full-size LALM is made of, trains, needs and leaves behind, without its weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coat_core.errors import BackboneError
from coat_core.hub import weight_files
from coat_core.settings import HeadSettings, LoraSettings
from coat_core.sizing.advice import Advice, advise_training
from coat_core.sizing.block_rows import Rows, block_rows
from coat_core.sizing.memory import Estimate, Line, head_values, inference_memory, lora_parameters
from coat_core.sizing.params import ASSUMED, Params
from coat_core.sizing.published import Published, published
from coat_core.sizing.workload import DTYPE_BYTES, InferenceLoad, ModelShape, TrainingLoad

TEXT_TOKENS, ANSWER_TOKENS = 96, 64
"""Of the chat template and a question with its choices, and of an answer in training: assumptions."""


@dataclass(frozen=True)
class Question:
    """What is asked of the doctor; None takes what params say.

    Attributes:
        examples: rows of one forward (in training `training.batch_size`, cut by `training.batch_seconds`; in inference
            `evaluation.batch_size`).
        audio_s: seconds of every clip (`contract.max_duration_s`).
        answer_tokens: of an answer (in training 64; in inference `evaluation.max_new_tokens`).
        gpu_gb: memory of the GPU, 1 GB = 1e9 bytes.
        base: a folder or a cached hub id whose configuration and tokenizer are read instead of the ones written down.
    """

    examples: int | None = None
    audio_s: float | None = None
    answer_tokens: int | None = None
    gpu_gb: float = 80.0
    base: str | None = None


@dataclass(frozen=True)
class Diagnosis:
    """Everything that the doctor says of one backbone; sizes in parameters and bytes."""

    checkpoint: Published
    config_source: str
    parameters: dict[str, int]
    lora_modules: int
    lora: int
    rows: Rows
    row_parameters: int
    heads: dict[str, int]
    unknown_heads: dict[str, str]
    load: TrainingLoad
    training: Advice
    inference_load: InferenceLoad
    inference: Estimate
    disk: tuple[Line, ...]
    notes: tuple[str, ...]
    gpu_bytes: int

    @property
    def total(self) -> int:
        """All parameters of the base."""
        return sum(self.parameters.values())

    @property
    def trainable(self) -> int:
        """LoRA, rows and the heads that are known."""
        return self.lora + self.row_parameters + sum(self.heads.values())


def diagnose(key: str, params: Params, question: Question) -> Diagnosis:
    """Build one full-size LALM on the meta device and work everything out.

    Raises:
        BackboneError: the key is unknown; LoRA's expression matches another number of modules than layers x names, or a module
            outside the decoder; the block finds no ids; the folder of `--base` is of another LALM.
    """
    from coat_core.sizing.base_config import find_base, find_tokenizer
    from coat_core.sizing.meta import meta_lalm, parameters_by_part, read_config, shape_of

    checkpoint = published(key)
    folder, source = find_base(checkpoint, question.base)
    backbone = meta_lalm(key, read_config(checkpoint, folder), find_tokenizer(folder))
    parts, shape = parameters_by_part(backbone.model), shape_of(backbone)
    rows = block_rows(params.thinking, checkpoint, shape.vocabulary, backbone.tokenizer)
    specs, unknown = params.specs()
    heads = head_parameters(specs, shape.hidden, params.heads)
    modules, lora = match_lora(backbone, params.lora)
    if lora != lora_parameters(shape, params.lora.modules, params.lora.rank):
        raise AssertionError("PEFT and our arithmetic count LoRA differently")
    dtype, precision, note = params.dtype(key)
    audio_s = question.audio_s or params.max_duration_s
    examples = question.examples or params.batch(audio_s)
    load = TrainingLoad(
        examples=examples,
        audio_s=audio_s,
        prompt_tokens=TEXT_TOKENS + params.thinking.tokens + 2,
        answer_tokens=question.answer_tokens or ANSWER_TOKENS,
        dtype=dtype,
        precision=precision,
        gradient_checkpointing=params.training.gradient_checkpointing,
        accumulation=params.training.accumulation,
        modules=params.lora.modules,
        rank=params.lora.rank,
        dropout=params.lora.dropout > 0,
        rows=rows.needed * shape.hidden,
        heads=sum(heads.values()),
        head_values=head_values(params.heads.width, params.heads.layers, [spec.dim for spec in specs.values()]),
        head_rate_hz=params.heads.target_rate_hz,
        head_max_frames=params.heads.max_frames,
    )
    inference_load = InferenceLoad(
        question.examples or params.answers, audio_s, load.prompt_tokens, question.answer_tokens or params.new_tokens, dtype
    )
    budget = int(question.gpu_gb * 1e9)
    notes = [note]
    if shape.parameters != checkpoint.parameters_known:
        notes.append(f"the published checkpoint has {checkpoint.parameters_known:,} parameters, this one {shape.parameters:,}")
    revision = params.backbones[key].revision if key in params.backbones else None
    if revision not in (None, checkpoint.commit):
        notes.append(f"params name the revision {revision}; the configuration written down here is that of {checkpoint.commit}")
    assumed = [expert for expert, spec in specs.items() if spec.version == ASSUMED]
    if assumed:
        notes.append(f"the widths of {', '.join(assumed)} are those of the default checkpoints; they are read once the features are there")
    if not rows.exact and backbone.tokenizer is None:
        notes.append("how many rows are spare is known once the tokenizer is at hand: --base, or training itself, which then needs "
                     "reserved tokens if the block does not fit")  # fmt: skip
    if rows.taken and backbone.tokenizer is None:
        notes.append("that the tokenizer holds the reserved tokens is checked when it is at hand: --base, or training itself")
    return Diagnosis(
        checkpoint=checkpoint,
        config_source=source,
        parameters=parts,
        lora_modules=modules,
        lora=lora,
        rows=rows,
        row_parameters=load.rows,
        heads=heads,
        unknown_heads=unknown,
        load=load,
        training=advise_training(shape, load, budget, base=f"backbones.{key}"),
        inference_load=inference_load,
        inference=inference_memory(shape, inference_load),
        disk=disk_lines(weights_line(checkpoint, folder), shape, load, lora, specs),
        notes=tuple(notes),
        gpu_bytes=budget,
    )


def match_lora(backbone: Any, lora: LoraSettings) -> tuple[int, int]:
    """Put LoRA into the meta model by PEFT; return the modules that carry it and their parameters.

    Raises:
        BackboneError: nothing matches, or not every named linear of every decoder layer exactly once and nothing else.
    """
    import torch
    from peft import LoraConfig, inject_adapter_in_model

    config = LoraConfig(r=lora.rank, lora_alpha=lora.alpha, bias="none", target_modules=backbone.lora_targets(lora.modules))
    names = {name for name, _ in backbone.model.named_modules()}
    layers = next(name for name in names if name.endswith("language_model.layers"))
    try:
        with torch.device("meta"):
            model = inject_adapter_in_model(config, backbone.model)
    except ValueError as error:
        raise BackboneError(f"LoRA cannot be put into this model: {error}", field="lora.modules", value=list(lora.modules)) from error
    matched = [name.removesuffix(".lora_A.default") for name, _ in model.named_modules() if name.endswith(".lora_A.default")]
    expected = backbone.layer_count * len(set(lora.modules))
    outside = [name for name in matched if not name.startswith(f"{layers}.")]
    if len(matched) != expected or outside:
        raise BackboneError(
            f"LoRA's expression matches {len(matched)} modules, {len(outside)} of them outside the language model's layers",
            field="lora.modules",
            value=list(lora.modules),
            allowed=f"{expected} modules: {backbone.layer_count} layers x {len(set(lora.modules))} names",
            next_step="name linear layers that every decoder layer has, once each",
        )
    return len(matched), sum(parameter.numel() for name, parameter in model.named_parameters() if ".lora_" in name)


def head_parameters(specs: Mapping[str, Any], hidden: int, settings: HeadSettings) -> dict[str, int]:
    """Return the parameters of each expert's head, built on the meta device."""
    import torch

    from coat_core.thinking.heads import empty_heads

    with torch.device("meta"):
        heads = empty_heads(specs, hidden, settings)
    return {key: sum(parameter.numel() for parameter in heads[key].parameters()) for key in heads}


def disk_lines(weights: Line, shape: ModelShape, load: TrainingLoad, lora: int, specs: Mapping[str, Any]) -> tuple[Line, ...]:
    """Return what the disk must hold: the checkpoint, a release, a merged export, resume state, and stores for each hour of audio."""
    size = DTYPE_BYTES[load.dtype]
    adapter = lora + load.rows
    lines = [
        weights,
        Line("release: adapter", adapter * 4, f"({lora:,} LoRA + {load.rows:,} rows) x 4 B"),
        Line("release: heads", load.heads * 4, f"{load.heads:,} x 4 B"),
        Line("merged export", weights.bytes, "the base's tensors in the base's formats, other parts passed through; --dtype changes them"),
        Line("resume state", (adapter + load.heads) * 12, f"{adapter + load.heads:,} x (4 + 8) B, weights and AdamW; two are kept"),
        Line("tower cache, an hour of audio", 90_000 * shape.hidden * size, f"90,000 tokens x {shape.hidden} x {size} B, in memory"),
    ]
    for key, spec in specs.items():
        frames = round(spec.native_rate_hz * 3600)
        lines.append(Line(f"features {key}, an hour of audio", frames * spec.dim * 2, f"{frames:,} frames x {spec.dim} x 2 B"))
    return tuple(lines)


def weights_line(checkpoint: Published, folder: Path | None) -> Line:
    """Return what the weights take: those of a folder that has them all, else what the published repository is known to hold."""
    files = [] if folder is None else [folder / name for name in weight_files(folder)]
    if files and all(file.is_file() for file in files):
        return Line("checkpoint", sum(file.stat().st_size for file in files), f"the weights in {folder}")
    return Line("checkpoint", checkpoint.file_bytes, "all weights of the repository")


def expand(key: str) -> Sequence[str]:
    """Return the backbones that `--published` names: one, or `all`.

    Raises:
        BackboneError: no such backbone.
    """
    from coat_core.sizing.published import PUBLISHED

    return tuple(PUBLISHED) if key == "all" else (published(key).key,)
