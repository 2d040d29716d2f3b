"""Estimates of the memory of a LALM in training and in inference, as named lines of arithmetic. No torch.

An estimate is for one GPU (of several, each of them), SDPA attention and LoRA on a frozen base, as this project trains (`training/`,
`thinking/`). The tensors that autograd saves are counted one by one for the stock decoder layer (RMSNorm, rotary attention, gated
MLP) with PEFT's LoRA around its linear layers; a test compares the count with `torch.autograd.graph.saved_tensors_hooks` on a
small layer. `OVERHEAD_BYTES` and `SLACK` are assumptions that no test checks. A batch without padding needs
no mask and no repeated keys, and therefore less memory.
Lengths are in tokens, audio in seconds (25 audio tokens per second), sizes in bytes, 1 GB = 1e9 bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from coat_core.sizing.workload import DTYPE_BYTES, InferenceWorkload, ModelShape, TrainingWorkload

OVERHEAD_BYTES = 1_000_000_000
"""CUDA context, cuBLAS workspaces and loaded kernels."""
SLACK = 0.05
"""Unused share between the blocks of the caching allocator, of all memory except the weights."""


@dataclass(frozen=True)
class Line:
    """One line of an estimate: name, bytes, and the arithmetic as text."""

    name: str
    bytes: int
    arithmetic: str


@dataclass(frozen=True)
class Estimate:
    """The lines of an estimate; the peak is their sum."""

    lines: tuple[Line, ...]

    @property
    def total(self) -> int:
        """Peak in bytes."""
        return sum(line.bytes for line in self.lines)


def lora_parameters(shape: ModelShape, modules: Sequence[str], rank: int) -> int:
    """Return the number of LoRA's parameters: (inputs + outputs) · rank for each module of each layer."""
    return shape.layers * sum(sum(shape.linears[name]) for name in modules) * rank


def head_values(width: int, layers: int, dims: Sequence[int]) -> int:
    """Return the number of values per target frame that heads save for the backward pass.

    A layer saves 17 values per unit of width (two norm inputs, the inputs of four linear layers, q, k, v, the attention's output,
    the activation's input); the last norm and linear layer save 2; prediction, target and their products in the loss about 6 per
    dimension.
    """
    return sum(17 * width * layers + 2 * width + 6 * dim for dim in dims)


def layer_bytes_per_token(shape: ModelShape, workload: TrainingWorkload) -> int:
    """Return the bytes per token that one decoder layer saves for its backward pass, without attention mask and weights.

    Both norms save their input in float32, and one float32 number. LoRA saves the input of each adapted linear layer: one copy each
    if PEFT casts a 16-bit input to LoRA's float32 (autocast casts it back to 16 bits); without a cast, linear layers with the same
    input share it, and `o_proj` shares attention's output; dropout adds a copy and a mask of one byte per value. Attention saves
    q, k, v (k and v repeated for every head, as SDPA with a mask requires) and its output, with float32 sums; the MLP saves the
    activation's input and both factors of the gate.
    """
    computed, query = workload.compute_bytes, shape.heads * shape.head_dim
    cast = DTYPE_BYTES[workload.dtype] != 4 or workload.precision != "float32"
    copied = cast or workload.dropout
    shared = {} if copied else {"q_proj": "norm 1", "k_proj": "norm 1", "v_proj": "norm 1", "gate_proj": "norm 2", "up_proj": "norm 2"}
    kept = {shared.get(name, name): shape.linears[name][0] for name in workload.modules if copied or name != "o_proj"}
    norms = 2 * (4 * shape.hidden + 4)
    attention = computed * 4 * query + 4 * shape.heads
    mlp = computed * 3 * shape.intermediate
    # Without autocast, the inputs that PEFT casts stay in float32.
    lora = (sum(kept.values()) + len(workload.modules) * workload.rank) * (4 if workload.precision == "float32" else 2)
    lora += sum(kept.values()) if workload.dropout else 0
    return norms + attention + mlp + lora


def training_memory(shape: ModelShape, workload: TrainingWorkload) -> Estimate:
    """Return the peak memory of one training step, at the start of its backward pass, line by line."""
    tokens, layers, weight = workload.tokens, shape.layers, DTYPE_BYTES[workload.dtype]
    lora = lora_parameters(shape, workload.modules, workload.rank)
    trained = lora + workload.rows + workload.heads
    per_token = layer_bytes_per_token(shape, workload)
    mask = workload.examples * workload.length**2 * workload.compute_bytes
    shown = f"{workload.examples} x {workload.length} tokens"
    kept: tuple[Line, ...]
    if workload.gradient_checkpointing:
        kept = (
            Line("layer inputs", tokens * layers * shape.hidden * weight, f"{shown} x {layers} layers x {shape.hidden} x {weight} B"),
            Line("one layer recomputed", tokens * per_token + mask, f"{shown} x {per_token:,} B + mask {mask:,} B"),
        )
    else:
        kept = (
            Line("activations", layers * (tokens * per_token + mask), f"{layers} layers x ({shown} x {per_token:,} B + mask {mask:,} B)"),
        )
    if weight == 4 and workload.precision != "float32":
        linears = sum(a * b for a, b in shape.linears.values()) * 2
        copies = 1 if workload.gradient_checkpointing else layers
        kept += (
            Line(
                "16-bit copies of weights", copies * linears, f"autocast saves them for the backward pass: {copies} layers x {linears:,} B"
            ),
        )
    if workload.precision != "float32":
        kept += (Line("16-bit copies of LoRA", 2 * lora, f"{lora:,} x 2 B"),)
    frames = workload.examples * min(workload.head_max_frames, max(1, round(workload.audio_s * workload.head_rate_hz)))
    working = shape.intermediate * (3 * workload.compute_bytes + 4)
    per_logit = 2 * workload.compute_bytes + 12
    answers = workload.examples * workload.answer_tokens
    dynamic = (
        *kept,
        Line(
            "embeddings and final norm", tokens * shape.hidden * (weight + 4), f"{shown} x {shape.hidden} x ({weight} + 4) B",
        ),
        Line("gradients in one layer", tokens * working, f"{shown} x {shape.intermediate} x (3 x {workload.compute_bytes} + 4) B"),
        Line(
            "answer logits and their gradients", answers * shape.vocabulary * per_logit,
            f"{workload.examples} x {workload.answer_tokens} answer tokens x {shape.vocabulary} x {per_logit} B",
        ),
        Line("heads", frames * workload.head_values * 4, f"{frames} frames x {workload.head_values} values x 4 B"),
    )  # fmt: skip
    static = (
        *_frozen(shape, workload.shards, weight),
        Line(
            "trained weights, gradients, AdamW", trained * 16,
            f"({lora:,} LoRA + {workload.rows:,} block + {workload.heads:,} head parameters) x (4 + 4 + 8) B",
        ),
    )  # fmt: skip
    return _with_overhead(static, dynamic)


def _frozen(shape: ModelShape, shards: int, weight: int) -> tuple[Line, ...]:
    """Return the frozen weights: all of them, or the shards, and the largest module while it is gathered.

    The audio tower of a sharded base stays in the host's memory, because its outputs come from the audio store.
    """
    if shards == 1:
        return (Line("frozen weights", shape.parameters * weight, f"{shape.parameters:,} x {weight} B"),)
    sharded, largest = shape.sharded_parameters, shape.vocabulary * shape.hidden
    return (
        Line("frozen weights", -(-sharded // shards) * weight, f"{sharded:,} of the language model / {shards} processes x {weight} B"),
        Line("gathered weights", 2 * largest * weight, f"output layer {largest:,} x {weight} B, and the buffer that it is copied from"),
    )


def inference_memory(shape: ModelShape, workload: InferenceWorkload) -> Estimate:
    """Return the peak memory of `generate`: merged weights, the cache of keys and values, and the largest stage of the prefill."""
    size, rows, length = DTYPE_BYTES[workload.dtype], workload.examples, workload.prompt_length
    tokens, positions = rows * length, rows * shape.tower_positions(workload.audio_s)
    per_token = 2 * shape.layers * shape.kv_heads * shape.head_dim * size
    kv = rows * (length + workload.new_tokens) * per_token
    query = shape.heads * shape.head_dim
    stages = {
        "audio tower": (
            positions * 2 * (shape.tower_width + shape.tower_ffn) * size,
            f"{positions} positions x 2 x ({shape.tower_width} + {shape.tower_ffn}) x {size} B",
        ),
        "attention": (
            tokens * (shape.hidden + 4 * query) * size + rows * length**2 * size,
            f"{tokens} tokens x ({shape.hidden} + 4 x {query}) x {size} B + mask {rows} x {length}^2 x {size} B",
        ),
        "MLP": (
            tokens * (shape.hidden + 3 * shape.intermediate) * size,
            f"{tokens} tokens x ({shape.hidden} + 3 x {shape.intermediate}) x {size} B",
        ),
        "logits": (
            (tokens if shape.logits_everywhere else rows) * shape.vocabulary * size + rows * shape.vocabulary * 4,
            f"{tokens if shape.logits_everywhere else rows} positions x {shape.vocabulary} x {size} B + {rows} x {shape.vocabulary} x 4 B",
        ),
    }
    name, (largest, arithmetic) = max(stages.items(), key=lambda stage: stage[1][0])
    static = (Line("weights", shape.parameters * size, f"{shape.parameters:,} x {size} B"),)
    dynamic = (
        Line("keys and values", kv, f"{rows} x ({length} + {workload.new_tokens}) tokens x {per_token:,} B"),
        Line(f"prefill, at its largest in the {name}", largest, arithmetic),
    )
    return _with_overhead(static, dynamic)


def _with_overhead(static: tuple[Line, ...], dynamic: tuple[Line, ...]) -> Estimate:
    total = sum(line.bytes for line in dynamic)
    slack = Line("allocator slack (assumed)", int(total * SLACK), f"{SLACK:.0%} of {total:,} B")
    return Estimate((*static, *dynamic, slack, Line("CUDA context and libraries (assumed)", OVERHEAD_BYTES, "a constant")))
