"""Bytes that a LALM needs in training and in inference, as arithmetic: numbers in, named lines out, no torch.

Everything here is an estimate for one GPU, one process, SDPA attention and LoRA over a frozen base, as this project trains
(`training/`, `thinking/`). What autograd keeps is counted tensor by tensor from the stock decoder layer (RMSNorm, rotary
attention, gated MLP) with PEFT's LoRA around its linears, and a test compares the count with what
`torch.autograd.graph.saved_tensors_hooks` sees on a small layer. Assumptions that no test here can prove (no GPU at hand):
`OVERHEAD_BYTES` and `SLACK`. A batch without any padding needs no mask and no repeated keys, and takes less.
Lengths are in tokens, audio in seconds (25 audio tokens a second), sizes in bytes, 1 GB = 1e9 bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from coat_core.sizing.workload import DTYPE_BYTES, InferenceLoad, ModelShape, TrainingLoad

OVERHEAD_BYTES = 1_000_000_000
"""CUDA context, cuBLAS workspaces and loaded kernels."""
SLACK = 0.05
"""Share of what is not weights that the caching allocator leaves unused between blocks."""


@dataclass(frozen=True)
class Line:
    """One line of an estimate: what, how many bytes, and the arithmetic in words."""

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
    """Return LoRA's parameters: (inputs + outputs) · rank for each module of each layer."""
    return shape.layers * sum(sum(shape.linears[name]) for name in modules) * rank


def head_values(width: int, layers: int, dims: Sequence[int]) -> int:
    """Return the values that heads keep for the backward pass, for each target frame.

    A layer keeps 17 values a unit of width (two norm inputs, the inputs of four linears, q, k, v, the attention's output, the
    activation's input); the last norm and linear keep 2; prediction, target and their products in the loss keep about 6 a
    dimension.
    """
    return sum(17 * width * layers + 2 * width + 6 * dim for dim in dims)


def layer_bytes_per_token(shape: ModelShape, load: TrainingLoad) -> int:
    """Return what one decoder layer keeps for its backward pass, in bytes a token (attention mask and weights aside).

    Both norms keep their input in float32, and a float32 number. LoRA keeps the input of each adapted linear: a copy each where
    PEFT casts a 16-bit input to LoRA's float32 (autocast makes it 16-bit again); where nothing is cast, linears with the same
    input share it, and `o_proj` shares attention's output; dropout makes a copy and a mask of a byte a value. Attention keeps
    q, k, v (k and v repeated for every head, as SDPA with a mask needs them) and its output, with float32 sums; the MLP keeps
    the activation's input and both factors of the gate.
    """
    computed, query = load.compute_bytes, shape.heads * shape.head_dim
    cast = DTYPE_BYTES[load.dtype] != 4 or load.precision != "no"
    own = cast or load.dropout
    shared = {} if own else {"q_proj": "norm 1", "k_proj": "norm 1", "v_proj": "norm 1", "gate_proj": "norm 2", "up_proj": "norm 2"}
    kept = {shared.get(name, name): shape.linears[name][0] for name in load.modules if own or name != "o_proj"}
    norms = 2 * (4 * shape.hidden + 4)
    attention = computed * 4 * query + 4 * shape.heads
    mlp = computed * 3 * shape.intermediate
    # Without autocast what PEFT cast stays float32.
    lora = (sum(kept.values()) + len(load.modules) * load.rank) * (4 if load.precision == "no" else 2)
    lora += sum(kept.values()) if load.dropout else 0
    return norms + attention + mlp + lora


def training_memory(shape: ModelShape, load: TrainingLoad) -> Estimate:
    """Return the peak of one training step, at the start of its backward pass, line by line."""
    tokens, layers, weight = load.tokens, shape.layers, DTYPE_BYTES[load.dtype]
    lora = lora_parameters(shape, load.modules, load.rank)
    trained = lora + load.rows + load.heads
    per_token = layer_bytes_per_token(shape, load)
    mask = load.examples * load.length**2 * load.compute_bytes
    shown = f"{load.examples} x {load.length} tokens"
    kept: tuple[Line, ...]
    if load.gradient_checkpointing:
        kept = (
            Line("layer inputs", tokens * layers * shape.hidden * weight, f"{shown} x {layers} layers x {shape.hidden} x {weight} B"),
            Line("one layer recomputed", tokens * per_token + mask, f"{shown} x {per_token:,} B + mask {mask:,} B"),
        )
    else:
        kept = (
            Line("activations", layers * (tokens * per_token + mask), f"{layers} layers x ({shown} x {per_token:,} B + mask {mask:,} B)"),
        )
    if weight == 4 and load.precision != "no":
        linears = sum(a * b for a, b in shape.linears.values()) * 2
        copies = 1 if load.gradient_checkpointing else layers
        kept += (
            Line(
                "16-bit copies of weights", copies * linears, f"autocast keeps them for the backward pass: {copies} layers x {linears:,} B"
            ),
        )
    if load.precision != "no":
        kept += (Line("16-bit copies of LoRA", 2 * lora, f"{lora:,} x 2 B"),)
    frames = load.examples * min(load.head_max_frames, max(1, round(load.audio_s * load.head_rate_hz)))
    working = shape.intermediate * (3 * load.compute_bytes + 4)
    per_logit = 2 * load.compute_bytes + 12
    answers = load.examples * load.answer_tokens
    dynamic = (
        *kept,
        Line(
            "embeddings and final norm", tokens * shape.hidden * (weight + 4), f"{shown} x {shape.hidden} x ({weight} + 4) B",
        ),
        Line("gradients in one layer", tokens * working, f"{shown} x {shape.intermediate} x (3 x {load.compute_bytes} + 4) B"),
        Line(
            "answer logits and their gradients", answers * shape.vocabulary * per_logit,
            f"{load.examples} x {load.answer_tokens} answer tokens x {shape.vocabulary} x {per_logit} B",
        ),
        Line("heads", frames * load.head_values * 4, f"{frames} frames x {load.head_values} values x 4 B"),
    )  # fmt: skip
    static = (
        Line("frozen weights", shape.parameters * weight, f"{shape.parameters:,} x {weight} B"),
        Line(
            "trained weights, gradients, AdamW", trained * 16,
            f"({lora:,} LoRA + {load.rows:,} rows + {load.heads:,} heads) x (4 + 4 + 8) B",
        ),
    )  # fmt: skip
    return _with_overhead(static, dynamic)


def inference_memory(shape: ModelShape, load: InferenceLoad) -> Estimate:
    """Return the peak of `generate`: the merged weights, the cache of keys and values, and the largest moment of the prefill."""
    size, rows, length = DTYPE_BYTES[load.dtype], load.examples, load.prompt_length
    tokens, positions = rows * length, rows * shape.tower_positions(load.audio_s)
    per_token = 2 * shape.layers * shape.kv_heads * shape.head_dim * size
    kv = rows * (length + load.new_tokens) * per_token
    query = shape.heads * shape.head_dim
    moments = {
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
    name, (largest, arithmetic) = max(moments.items(), key=lambda moment: moment[1][0])
    static = (Line("weights", shape.parameters * size, f"{shape.parameters:,} x {size} B"),)
    dynamic = (
        Line("keys and values", kv, f"{rows} x ({length} + {load.new_tokens}) tokens x {per_token:,} B"),
        Line(f"prefill, at its largest in the {name}", largest, arithmetic),
    )
    return _with_overhead(static, dynamic)


def _with_overhead(static: tuple[Line, ...], dynamic: tuple[Line, ...]) -> Estimate:
    moving = sum(line.bytes for line in dynamic)
    slack = Line("allocator slack (assumed)", int(moving * SLACK), f"{SLACK:.0%} of {moving:,} B")
    return Estimate((*static, *dynamic, slack, Line("CUDA context and libraries (assumed)", OVERHEAD_BYTES, "a constant")))
