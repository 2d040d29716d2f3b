"""`coat doctor --published BACKBONE`: parameters, trainable parameters, memory and disk of a full-size LALM, without its weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from coat_core.errors import BackboneError
from coat_core.hub import weight_files
from coat_core.settings import HeadSettings, LoraSettings, ThinkingSettings
from coat_core.sizing.advice import Advice, advise_training
from coat_core.sizing.memory import Estimate, Line, head_values, inference_memory, lora_parameters
from coat_core.sizing.params import ASSUMED, Params
from coat_core.sizing.published import PublishedBase, published_base
from coat_core.sizing.workload import DTYPE_BYTES, InferenceWorkload, ModelShape, TrainingWorkload

TEXT_TOKENS, ANSWER_TOKENS = 96, 64
"""Assumed tokens of the chat template and a question with its choices, and of an answer in training."""


@dataclass(frozen=True)
class SizingRequest:
    """The options of a diagnosis; None selects the default in parentheses.

    Attributes:
        examples: examples per forward pass (in training `training.batch_size`, limited by `training.batch_seconds`; in inference
            `evaluation.batch_size`).
        audio_s: seconds of every clip (`contract.max_duration_s`).
        answer_tokens: tokens of an answer (in training 64; in inference `evaluation.max_new_tokens`).
        gpu_gb: memory of the GPU, 1 GB = 1e9 bytes.
        base: a folder or a cached hub id with the configuration and tokenizer to use (the built-in configuration).
    """

    examples: int | None = None
    audio_s: float | None = None
    answer_tokens: int | None = None
    gpu_gb: float = 80.0
    base: str | None = None


@dataclass(frozen=True)
class BlockRows:
    """The embedding rows that the thinking block uses.

    Attributes:
        think_tokens: K.
        needed: number of embedding rows that the block uses.
        matrix: rows of the embedding.
        tokens: the tokenizer's length, or a lower bound of it.
        exact: whether `tokens` is the length.
        source: `spare rows` or `reserved tokens`.
        taken: the reserved tokens that are used, in the order start, think…, end; empty for spare rows.
    """

    think_tokens: int
    needed: int
    matrix: int
    tokens: int
    exact: bool
    source: str
    taken: tuple[str, ...]

    @property
    def spare(self) -> int:
        """Rows beyond the tokenizer's length (an upper bound if the length is not exact)."""
        return max(0, self.matrix - self.tokens)


@dataclass(frozen=True)
class Diagnosis:
    """All results for one backbone; sizes in parameters and bytes."""

    checkpoint: PublishedBase
    config_source: str
    parameters: dict[str, int]
    lora_modules: int
    lora: int
    rows: BlockRows
    block_parameters: int
    heads: dict[str, int]
    unknown_heads: dict[str, str]
    workload: TrainingWorkload
    training: Advice
    inference_workload: InferenceWorkload
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
        """LoRA, the block's trainable tokens and the heads of known width."""
        return self.lora + self.block_parameters + sum(self.heads.values())


def diagnose(key: str, params: Params, request: SizingRequest) -> Diagnosis:
    """Build one full-size LALM on the meta device and compute its sizes.

    Raises:
        BackboneError: the key is unknown; LoRA's expression does not match exactly layers x names modules, or matches a module
            outside the decoder; there are not enough ids for the block; the folder of `--base` is of another LALM.
    """
    from coat_core.sizing.meta import find_base, find_tokenizer, meta_lalm, parameters_by_part, read_config, shape_of

    checkpoint = published_base(key)
    folder, source = find_base(checkpoint, request.base)
    backbone = meta_lalm(key, read_config(checkpoint, folder), find_tokenizer(folder))
    parts, shape = parameters_by_part(backbone.model), shape_of(backbone)
    rows = block_rows(params.thinking, checkpoint, shape.vocabulary, backbone.tokenizer)
    specs, unknown = params.specs()
    heads = head_parameters(specs, shape.hidden, params.heads)
    modules, lora = match_lora(backbone, params.lora)
    if lora != lora_parameters(shape, params.lora.modules, params.lora.rank):
        raise AssertionError("PEFT's number of LoRA parameters differs from `lora_parameters`")
    dtype, precision, note = params.dtype(key)
    audio_s = request.audio_s or params.max_duration_s
    examples = request.examples or params.batch(audio_s)
    workload = TrainingWorkload(
        examples=examples,
        audio_s=audio_s,
        prompt_tokens=TEXT_TOKENS + params.thinking.tokens + 2,
        answer_tokens=request.answer_tokens or ANSWER_TOKENS,
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
        shards=params.training.shards,
    )
    inference_workload = InferenceWorkload(
        request.examples or params.answers, audio_s, workload.prompt_tokens, request.answer_tokens or params.new_tokens, dtype
    )
    budget = int(request.gpu_gb * 1e9)
    notes = [note]
    if shape.parameters != checkpoint.parameters_known:
        notes.append(f"the published checkpoint has {checkpoint.parameters_known:,} parameters, this one {shape.parameters:,}")
    revision = params.backbones[key].revision if key in params.backbones else None
    if revision not in (None, checkpoint.commit):
        notes.append(f"params name the revision {revision}; the built-in configuration is that of {checkpoint.commit}")
    assumed = [expert for expert, spec in specs.items() if spec.version == ASSUMED]
    if assumed:
        notes.append(f"the widths of {', '.join(assumed)} are those of the default checkpoints; feature extraction gives the true ones")
    if not rows.exact and backbone.tokenizer is None:
        notes.append("the number of spare rows is known only with the tokenizer (--base, or training); training needs reserved tokens "
                     "if the block does not fit")  # fmt: skip
    if rows.taken and backbone.tokenizer is None:
        notes.append("whether the tokenizer has the reserved tokens is checked only with the tokenizer (--base, or training)")
    return Diagnosis(
        checkpoint=checkpoint,
        config_source=source,
        parameters=parts,
        lora_modules=modules,
        lora=lora,
        rows=rows,
        block_parameters=workload.rows,
        heads=heads,
        unknown_heads=unknown,
        workload=workload,
        training=advise_training(shape, workload, budget, base=f"backbones.{key}"),
        inference_workload=inference_workload,
        inference=inference_memory(shape, inference_workload),
        disk=disk_lines(weights_line(checkpoint, folder), shape, workload, lora, specs),
        notes=tuple(notes),
        gpu_bytes=budget,
    )


def block_rows(thinking: ThinkingSettings, checkpoint: PublishedBase, matrix: int, tokenizer: Any = None) -> BlockRows:
    """Return the block's rows: spare embedding rows if there are enough, else reserved tokens (as in `ThinkingBlock.install`).

    Raises:
        BackboneError: there are not enough of either, or the given tokenizer lacks a reserved token.
    """
    from coat_core.thinking.block import choose_rows, ids_needed

    vocabulary = tokenizer.get_vocab() if tokenizer is not None else None
    length = checkpoint.tokenizer_length if vocabulary is None else max(vocabulary.values()) + 1
    used = length or checkpoint.least_tokens
    needed = ids_needed(thinking, choose_rows(thinking, matrix - used))
    rows = BlockRows(thinking.tokens, needed, matrix, used, length is not None, "spare rows", ())
    if rows.spare >= needed:
        return rows
    reserved = list(dict.fromkeys(thinking.reserved_tokens))
    if len(reserved) < needed:
        raise BackboneError(
            f"the block needs {needed} ids; there are {rows.spare} spare embedding rows and {len(reserved)} reserved tokens",
            field="thinking.reserved_tokens",
            value=reserved,
            allowed=f"at least {needed} tokens",
            next_step="use thinking.rows: auto or shared, or list more reserved tokens",
        )
    taken = (reserved[0], *reserved[2:needed], reserved[1])
    absent = [token for token in taken if vocabulary is not None and token not in vocabulary]
    if absent:
        raise BackboneError("a reserved token is not in the tokenizer", field="thinking.reserved_tokens", value=absent)
    return replace(rows, source="reserved tokens", taken=taken)


def match_lora(backbone: Any, lora: LoraSettings) -> tuple[int, int]:
    """Add LoRA to the meta model with PEFT; return the number of modules with LoRA, and of LoRA's parameters.

    Raises:
        BackboneError: the matched modules are not exactly the named linear layers of every decoder layer.
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
        raise BackboneError(f"LoRA cannot be added to this model: {error}", field="lora.modules", value=list(lora.modules)) from error
    matched = [name.removesuffix(".lora_A.default") for name, _ in model.named_modules() if name.endswith(".lora_A.default")]
    expected = backbone.layer_count * len(set(lora.modules))
    outside = [name for name in matched if not name.startswith(f"{layers}.")]
    if len(matched) != expected or outside:
        raise BackboneError(
            f"LoRA's expression matches {len(matched)} modules, {len(outside)} of them outside the language model's layers",
            field="lora.modules",
            value=list(lora.modules),
            allowed=f"{expected} modules: {backbone.layer_count} layers x {len(set(lora.modules))} names",
            next_step="use names of linear layers that every decoder layer has, each once",
        )
    return len(matched), sum(parameter.numel() for name, parameter in model.named_parameters() if ".lora_" in name)


def head_parameters(specs: Mapping[str, Any], hidden: int, settings: HeadSettings) -> dict[str, int]:
    """Return the number of parameters of each expert's head, built on the meta device."""
    import torch

    from coat_core.thinking.heads import empty_heads

    with torch.device("meta"):
        heads = empty_heads(specs, hidden, settings)
    return {key: sum(parameter.numel() for parameter in heads[key].parameters()) for key in heads}


def disk_lines(weights: Line, shape: ModelShape, workload: TrainingWorkload, lora: int, specs: Mapping[str, Any]) -> tuple[Line, ...]:
    """Return the disk space of the checkpoint, a release, a merged export, resume state, and stores per hour of audio."""
    size = DTYPE_BYTES[workload.dtype]
    adapter = lora + workload.rows
    lines = [
        weights,
        Line("release: adapter", adapter * 4, f"({lora:,} LoRA + {workload.rows:,} block parameters) x 4 B"),
        Line("release: heads", workload.heads * 4, f"{workload.heads:,} x 4 B"),
        Line("merged export", weights.bytes, "the base's tensors in the base's dtypes, other parts unchanged; --dtype changes the dtypes"),
        Line("resume state", (adapter + workload.heads) * 12, f"{adapter + workload.heads:,} x (4 + 8) B, weights and AdamW; two stored"),
        Line(
            "audio store, an hour of audio",
            90_000 * shape.hidden * size,
            f"90,000 tokens x {shape.hidden} x {size} B, outputs of the audio tower",
        ),
    ]
    for key, spec in specs.items():
        frames = round(spec.native_rate_hz * 3600)
        lines.append(Line(f"features {key}, an hour of audio", frames * spec.dim * 2, f"{frames:,} frames x {spec.dim} x 2 B"))
    return tuple(lines)


def weights_line(checkpoint: PublishedBase, folder: Path | None) -> Line:
    """Return the size of the weights: of a folder's files if they are complete, else the known size of the published repository."""
    files = [] if folder is None else [folder / name for name in weight_files(folder)]
    if files and all(file.is_file() for file in files):
        return Line("checkpoint", sum(file.stat().st_size for file in files), f"the weights in {folder}")
    return Line("checkpoint", checkpoint.file_bytes, "all weights of the repository")
