"""Sizes that determine the memory of a LALM: the model's shape, a training workload, an inference workload. No torch.

Lengths are in tokens, audio in seconds (25 audio tokens a second), sizes in bytes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from coat_core.settings import Dtype

DTYPE_BYTES: dict[str, int] = {"float32": 4, "bfloat16": 2, "float16": 2}
AUDIO_TOKENS_PER_S = 25


@dataclass(frozen=True)
class ModelShape:
    """The sizes of a LALM that determine its memory.

    Attributes:
        parameters: all parameters.
        hidden: width D of the decoder.
        layers: decoder layers.
        heads: attention heads.
        kv_heads: key and value heads.
        head_dim: width of a head.
        intermediate: width I of the gated MLP.
        vocabulary: rows V of the embedding and of the language model's head.
        tower_width: width of the audio tower.
        tower_ffn: width of the tower's feed-forward layers.
        window_s: the tower pads a clip to a multiple of these seconds; None: no padding.
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
        """Inputs and outputs of each linear layer of a decoder layer."""
        query, keys = self.heads * self.head_dim, self.kv_heads * self.head_dim
        return {
            "q_proj": (self.hidden, query), "k_proj": (self.hidden, keys), "v_proj": (self.hidden, keys), "o_proj": (query, self.hidden),
            "gate_proj": (self.hidden, self.intermediate), "up_proj": (self.hidden, self.intermediate),
            "down_proj": (self.intermediate, self.hidden),
        }  # fmt: skip

    @property
    def sharded_parameters(self) -> int:
        """Parameters that a sharded training divides over its processes: embedding, linear and output layers; norms are left out."""
        return 2 * self.vocabulary * self.hidden + self.layers * sum(a * b for a, b in self.linears.values())

    def tower_positions(self, audio_s: float) -> int:
        """Return the positions (50 per second) of a clip in the tower's layers."""
        padded = audio_s if self.window_s is None else math.ceil(audio_s / self.window_s) * self.window_s
        return math.ceil(padded * 50)


@dataclass(frozen=True)
class TrainingWorkload:
    """One forward and backward of training.

    Attributes:
        examples: rows of the batch.
        audio_s: seconds of the longest clip; the others are padded to it.
        prompt_tokens: tokens of template, question and thinking block.
        answer_tokens: tokens of the answer with its end of turn.
        dtype: dtype of the frozen weights.
        precision: precision of the computation (`training.precision`).
        gradient_checkpointing: whether decoder layers are recomputed in the backward pass.
        accumulation: forward passes per optimizer step.
        modules: linear layers with LoRA.
        rank: LoRA's rank.
        dropout: whether LoRA has dropout on its inputs, which adds a copy and a mask (1 B) per input.
        rows: parameters of the block's trainable tokens.
        heads: parameters of the experts' heads.
        head_values: values per target frame that the heads save for the backward pass (see `head_values`).
        head_rate_hz: target frames per second.
        head_max_frames: maximum number of target frames of a clip.
        shards: processes over which the base is sharded (`training.strategy: fsdp`); 1: each process holds it whole.
    """

    examples: int
    audio_s: float
    prompt_tokens: int
    answer_tokens: int
    dtype: str
    precision: Dtype
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
    shards: int = 1

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
        return 2 if self.precision != "float32" else DTYPE_BYTES[self.dtype]


@dataclass(frozen=True)
class InferenceWorkload:
    """One `generate` call of the merged model; fields as in `TrainingWorkload`."""

    examples: int
    audio_s: float
    prompt_tokens: int
    new_tokens: int
    dtype: str

    @property
    def prompt_length(self) -> int:
        """Tokens of a padded prompt."""
        return math.ceil(self.audio_s * AUDIO_TOKENS_PER_S) + self.prompt_tokens
