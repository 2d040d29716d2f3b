"""Floating-point operations of a training step with LoRA on a frozen LALM, counted from shapes, line by line.

A multiplication and an addition are two operations. A linear layer of N weights takes 2 N a token forward. Backward, a frozen one
takes 2 N a token (the gradient of its input; none of its weights), a trained one 4 N. Attention takes 4 L D a token forward (scores
and values; half of it under a causal mask is of use, and half is counted) and twice that backward. The tower is frozen and nothing
before it trains, so it runs forward only. Norms, activations and the softmax are left out: they are below a hundredth.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

PEAK_TFLOPS = {
    "H200": 989.0, "H100 PCIe": 756.0, "H100 NVL": 835.0, "H100": 989.0, "B200": 2250.0, "A100": 312.0, "A40": 150.0, "A10": 125.0,
    "L40S": 362.0, "L4": 121.0, "RTX 4090": 165.0,
}  # fmt: skip
"""Dense bfloat16 peak by what the GPU's name holds, from the vendor's data sheets; the first that fits counts."""


@dataclass(frozen=True)
class Shapes:
    """What a step computes on.

    Attributes:
        rows: of the batch.
        length: tokens a row, padding included.
        logit_rows: positions for which logits are computed, over the batch.
        tower_positions: positions a row in the tower's layers (50 Hz, padding to a whole window included); 0: its output is cached.
        tower_span: positions that one position of the tower attends to.
        head_frames: target frames a row.
    """

    rows: int
    length: int
    logit_rows: int
    tower_positions: int
    tower_span: int
    head_frames: int


def peak_flops(gpu: str) -> float | None:
    """Return a GPU's peak in operations a second; None where it is not known."""
    return next((peak * 1e12 for name, peak in PEAK_TFLOPS.items() if name in gpu), None)


def step_flops(model: Any, lora: int, heads: int, shapes: Shapes, *, checkpointing: bool) -> dict[str, float]:
    """Return the operations of one training step by part; `recomputed` is done twice and of use once.

    Args:
        model: the stock model, LoRA inside or not.
        lora: LoRA's parameters.
        heads: parameters of the heads.
        shapes: of the batch.
        checkpointing: whether the decoder's forward is computed again in the backward pass.
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
    """Return the operations of use: all but what is computed a second time."""
    return sum(value for name, value in parts.items() if name != "recomputed")


def print_flops(parts: dict[str, float]) -> None:
    for name, value in parts.items():
        print(f"    {name:64s} {value / 1e12:12.6f} TFLOP")
    print(f"    {'of use':64s} {useful(parts) / 1e12:12.6f} TFLOP")


def _weights(model: Any, part: str) -> int:
    """Return the weights of linear and convolution layers in a part of the stock model, LoRA's own left out."""
    found = 0
    for name, parameter in model.named_parameters():
        if part in name and "lora_" not in name and parameter.dim() >= 2 and "embed_positions" not in name:
            found += parameter.numel()
    return found
