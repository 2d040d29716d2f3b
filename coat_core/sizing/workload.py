"""The sizes that decide how much memory a LALM needs: of the model, of a training step, of an answer. No torch.

Lengths are in tokens, audio in seconds (25 audio tokens a second), sizes in bytes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

Precision = Literal["no", "bf16", "fp16"]
DTYPE_BYTES: dict[str, int] = {"float32": 4, "bfloat16": 2, "float16": 2}
AUDIO_TOKENS_PER_S = 25


@dataclass(frozen=True)
class ModelShape:
    """The sizes of a LALM that decide its memory.

    Attributes:
        parameters: all of them.
        hidden: width D of the decoder.
        layers: decoder layers.
        heads: attention heads.
        kv_heads: key and value heads.
        head_dim: width of a head.
        intermediate: width I of the gated MLP.
        vocabulary: rows V of the embedding and of the language model's head.
        tower_width: width of the audio tower.
        tower_ffn: width of its feed-forward part.
        window_s: seconds that a clip is padded to multiples of in the tower; None: its true length.
        logits_everywhere: whether the stock prefill computes logits at every position of the prompt (a class without
            `logits_to_keep`).
    """

    parameters: int
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocabulary: int
    tower_width: int
    tower_ffn: int
    window_s: float | None
    logits_everywhere: bool

    @property
    def linears(self) -> dict[str, tuple[int, int]]:
        """Inputs and outputs of each linear of a decoder layer."""
        query, keys = self.heads * self.head_dim, self.kv_heads * self.head_dim
        return {
            "q_proj": (self.hidden, query), "k_proj": (self.hidden, keys), "v_proj": (self.hidden, keys), "o_proj": (query, self.hidden),
            "gate_proj": (self.hidden, self.intermediate), "up_proj": (self.hidden, self.intermediate),
            "down_proj": (self.intermediate, self.hidden),
        }  # fmt: skip

    def tower_positions(self, audio_s: float) -> int:
        """Return the positions (50 a second) that a clip takes in the tower's layers."""
        padded = audio_s if self.window_s is None else math.ceil(audio_s / self.window_s) * self.window_s
        return math.ceil(padded * 50)


@dataclass(frozen=True)
class TrainingLoad:
    """One forward and backward of training.

    Attributes:
        examples: rows of the batch.
        audio_s: seconds of the longest clip; the others are padded to it.
        prompt_tokens: of template, question and thinking block.
        answer_tokens: of the answer with its end of turn.
        dtype: of the frozen weights.
        precision: of the arithmetic (`training.precision`).
        gradient_checkpointing: whether decoder layers are recomputed in the backward pass.
        accumulation: forwards an optimizer step.
        modules: linears that carry LoRA.
        rank: of LoRA.
        dropout: whether LoRA's inputs are dropped out: a copy and a mask (1 B) each.
        rows: parameters of the block's rows.
        heads: parameters of the experts' heads.
        head_values: values that the heads keep for the backward pass, for each target frame (see `head_values`).
        head_rate_hz: target frames a second.
        head_max_frames: most target frames of a clip.
    """

    examples: int
    audio_s: float
    prompt_tokens: int
    answer_tokens: int
    dtype: str
    precision: Precision
    gradient_checkpointing: bool
    accumulation: int = 1
    modules: tuple[str, ...] = ()
    rank: int = 0
    dropout: bool = False
    rows: int = 0
    heads: int = 0
    head_values: int = 0
    head_rate_hz: float = 25.0
    head_max_frames: int = 1500

    @property
    def length(self) -> int:
        """Tokens of a padded row."""
        return math.ceil(self.audio_s * AUDIO_TOKENS_PER_S) + self.prompt_tokens + self.answer_tokens

    @property
    def tokens(self) -> int:
        """Tokens of the padded batch."""
        return self.examples * self.length

    @property
    def compute_bytes(self) -> int:
        """Bytes of a value in the matrix products."""
        return 2 if self.precision != "no" else DTYPE_BYTES[self.dtype]


@dataclass(frozen=True)
class InferenceLoad:
    """One `generate` of the merged model; fields as in `TrainingLoad`."""

    examples: int
    audio_s: float
    prompt_tokens: int
    new_tokens: int
    dtype: str

    @property
    def prompt_length(self) -> int:
        """Tokens of a padded prompt."""
        return math.ceil(self.audio_s * AUDIO_TOKENS_PER_S) + self.prompt_tokens
