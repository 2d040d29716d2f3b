"""Floating-point operations of a training step with LoRA on a frozen LALM, computed from shapes, line by line.

A multiplication and an addition are two operations. In the forward pass, a linear layer of N weights needs 2 N per token. In the backward
pass, a frozen layer needs 2 N per token (the gradient of its input only), and a trained layer 4 N. Attention needs 4 L D per token in the
forward pass (scores and values; under a causal mask half of it is useful, and half is counted) and twice that in the backward pass. The
tower is frozen and has no trained parameter before it, so it runs the forward pass only. Norms, activations and the softmax are omitted:
together they are below 1 %.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

PEAK_TFLOPS = {
    "H200": 989.0, "H100 PCIe": 756.0, "H100 NVL": 835.0, "H100": 989.0, "B200": 2250.0, "A100": 312.0, "A40": 150.0, "A10": 125.0,
    "L40S": 362.0, "L4": 121.0, "RTX 4090": 165.0,
}  # fmt: skip
"""Dense bfloat16 peak by a part of the GPU's name, from the vendor's data sheets; the first match counts."""


@dataclass(frozen=True)
class Shapes:
    """The shapes of a step.

    Attributes:
        rows: rows of the batch.
        length: tokens per row, padding included.
        logit_rows: positions of the batch for which logits are computed.
        tower_positions: positions per row in the tower's layers (50 Hz, padding to a full window included); 0: its output is cached.
        tower_span: positions that one position of the tower attends to.
        head_frames: target frames per row.
    """

    rows: int
    length: int
    logit_rows: int
    tower_positions: int
    tower_span: int
    head_frames: int


def peak_flops(gpu: str) -> float | None:
    """Return a GPU's peak in operations per second; None if it is not known."""
    return next((peak * 1e12 for name, peak in PEAK_TFLOPS.items() if name in gpu), None)


def step_flops(model: Any, lora: int, heads: int, shapes: Shapes, *, checkpointing: bool) -> dict[str, float]:
    """Return the operations of one training step by part; `recomputed` are those of the second forward pass, which are not useful.

    Args:
        model: the stock model, with or without LoRA.
        lora: number of LoRA's parameters.
        heads: number of the heads' parameters.
        shapes: shapes of the batch.
        checkpointing: whether the decoder's forward pass is recomputed in the backward pass.
    """
    text, audio = model.config.text_config, model.config.audio_config
    tokens = shapes.rows * shapes.length
    width = text.num_attention_heads * (getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads)
    decoder = _weights(model, "language_model.layers.")
    attention = 2 * shapes.length * width * text.num_hidden_layers * tokens
    positions = shapes.rows * shapes.tower_positions
    tower = (
        2 * _weights(model, "audio_tower.layers.") * positions + 4 * shapes.tower_span * audio.d_model * audio.encoder_layers * positions
    )
    # conv1 runs at 100 Hz, conv2 at 50 Hz; the projector at 25 Hz.
    convolutions = (2 * 2 * _weights(model, "audio_tower.conv1.") + 2 * _weights(model, "audio_tower.conv2.")) * positions
    projector = 2 * (_weights(model, "multi_modal_projector.") + _weights(model, "audio_tower.proj.")) * positions / 2
    parts = {
        "decoder forward (2 N T)": 2.0 * decoder * tokens,
        "decoder backward, activations only (2 N T)": 2.0 * decoder * tokens,
        "attention forward and backward (6 L D layers T, half masked)": 3.0 * attention,
        "LoRA (6 n T)": 6.0 * lora * tokens,
        "logits forward and backward (4 V D rows)": 4.0 * text.vocab_size * text.hidden_size * shapes.logit_rows,
        "tower forward (2 N + attention)": float(tower + convolutions + projector),
        "heads (6 n frames)": 6.0 * heads * shapes.rows * shapes.head_frames,
    }
    return {**parts, "recomputed": 2.0 * (decoder + lora) * tokens + attention if checkpointing else 0.0}


def useful(parts: dict[str, float]) -> float:
    """Return the useful operations: all except the recomputed ones."""
    return sum(value for name, value in parts.items() if name != "recomputed")


def print_flops(parts: dict[str, float]) -> None:
    for name, value in parts.items():
        print(f"    {name:64s} {value / 1e12:12.6f} TFLOP")
    print(f"    {'useful':64s} {useful(parts) / 1e12:12.6f} TFLOP")


def _weights(model: Any, part: str) -> int:
    """Return the number of weights of linear and convolution layers in a part of the stock model, without LoRA."""
    total = 0
    for name, parameter in model.named_parameters():
        if part in name and "lora_" not in name and parameter.dim() >= 2 and "embed_positions" not in name:
            total += parameter.numel()
    return total
