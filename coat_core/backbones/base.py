"""The narrow interface through which everything else sees a LALM."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

SAMPLE_RATE_HZ = 16_000


@dataclass(frozen=True)
class Query:
    """One question about one clip.

    Attributes:
        key: SHA-256 of the audio file, for caching what depends on the audio alone.
        waveform: mono float32 `[N]` at 16 kHz.
        text: what the user asks (question and choices).
        answer: what the assistant should say; None at inference.
        name: the example's id, for error messages.
    """

    key: str
    waveform: NDArray[np.float32]
    text: str
    answer: str | None = None
    name: str = ""


@dataclass(frozen=True)
class Mel:
    """Log-mel features `[B, n_mels, T]` (100 Hz, padded to whole windows as the tower demands) and valid frames `[B]`."""

    features: Tensor
    frames: Tensor


@dataclass(frozen=True)
class Batch:
    """Token ids of a padded batch, and its audio.

    Attributes:
        input_ids: `[B, L]`, placeholders expanded to the number of audio tokens; padded on the right for training, on the
            left for generation.
        attention_mask: `[B, L]`, 1 where a token stands.
        answer_mask: `[B, L]` bool, True on the ids of answer + end of turn (what the answer loss predicts).
        queries: the queries, in row order (their waveforms are the audio).
    """

    input_ids: Tensor
    attention_mask: Tensor
    answer_mask: Tensor
    queries: tuple[Query, ...]


class Backbone(Protocol):
    """A LALM: audio tower + projector + decoder-only language model, behind one interface.

    The three adapters differ by properties and methods of their classes, never by `if name == …` elsewhere.
    """

    key: str
    """`qwen2_audio`, `qwen2_5_omni` or `audio_flamingo_3`."""
    model: nn.Module
    """The stock transformers model; `generate` and `save_pretrained` are called on it."""
    tokenizer: Any
    """The tokenizer; its `chat_template` is *the* template (the thinking block rewrites it)."""

    @property
    def hidden_size(self) -> int:
        """Width D of the language model."""

    @property
    def layer_count(self) -> int:
        """Number of decoder layers of the language model."""

    @property
    def audio_token_rate_hz(self) -> float:
        """Audio tokens a second (25 for all three)."""

    @property
    def audio_token_id(self) -> int:
        """Id of the placeholder that is repeated once per audio token."""

    @property
    def end_of_turn(self) -> str:
        """Text of the token that ends an assistant turn (`<|im_end|>`)."""

    @property
    def embedding(self) -> nn.Embedding:
        """The language model's input embedding (untied from the output)."""

    @property
    def layers(self) -> nn.ModuleList:
        """The decoder layers, for hooks."""

    def lora_targets(self, modules: Sequence[str]) -> str:
        """Return an anchored regular expression that matches those linear layers of the language model and nothing else."""

    def audio_token_count(self, samples: int) -> int:
        """Return how many audio tokens a clip of that many samples (16 kHz) takes."""

    def messages(self, text: str) -> list[dict[str, Any]]:
        """Return the stock chat messages of one question about one clip (what `apply_chat_template` takes)."""

    def mel(self, waveforms: Sequence[NDArray[np.float32]]) -> Mel:
        """Return log-mel features; one-by-one equals batched."""

    def embed_audio(self, mel: Mel) -> list[Tensor]:
        """Run tower and projector; return per clip `[A, D]` (A audio tokens)."""

    def encode(self, queries: Sequence[Query], *, generation: bool = False) -> Batch:
        """Tokenize through the template; with answers and right padding, or (`generation`) prompts only, left-padded.

        Raises:
            BackboneError: an example does not fit, or its placeholders are not its audio tokens; it is named.
        """

    def embed(self, batch: Batch, audio: Sequence[Tensor]) -> Tensor:
        """Return input embeddings `[B, L, D]` with audio embeddings in the placeholders' place.

        Raises:
            BackboneError: the counts of placeholders and audio embeddings differ.
        """

    def hidden_states(self, embeddings: Tensor, attention_mask: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        """Run the decoder; return the states after decoder layer `layer` and those after the final norm, both `[B, L, D]`.

        Layers count from 1; what is read at one is taken before the final norm.
        """

    def answer_logits(self, states: Tensor) -> Tensor:
        """Return logits `[n, V]` of states after the final norm `[n, D]`."""

    def generation_inputs(self, batch: Batch) -> dict[str, Tensor]:
        """Return the keyword arguments of the stock `model.generate` for a left-padded batch (ids, mask, mel features)."""

    def save(self, folder: str, *, weights: bool = True) -> None:
        """Save model (safetensors), tokenizer, front end and the one template in the published layout."""
