"""The `Backbone` interface, through which the rest of the system uses a LALM, and `Architecture`, what each LALM implements."""

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
        key: SHA-256 of the audio file, the cache key of everything that depends on the audio alone.
        waveform: mono float32 `[N]` at 16 kHz.
        text: the user's text (question and choices).
        answer: the assistant's text; None at inference.
        name: the example's id, for error messages.
    """

    key: str
    waveform: NDArray[np.float32]
    text: str
    answer: str | None = None
    name: str = ""


@dataclass(frozen=True)
class Mel:
    """Log-mel features `[B, n_mels, T]` (100 Hz, padded to whole windows if the tower requires them) and valid frames `[B]`."""

    features: Tensor
    frames: Tensor


@dataclass(frozen=True)
class Batch:
    """Token ids of a padded batch, and its audio.

    Attributes:
        input_ids: `[B, L]`, each placeholder expanded to the number of audio tokens; right-padded for training, left-padded for
            generation.
        attention_mask: `[B, L]`, 1 for tokens, 0 for padding.
        answer_mask: `[B, L]` bool, True for the ids of answer + end of turn (the targets of the answer loss).
        queries: the queries, in row order; their waveforms are the audio.
    """

    input_ids: Tensor
    attention_mask: Tensor
    answer_mask: Tensor
    queries: tuple[Query, ...]


class Architecture(Protocol):
    """The differences between the LALMs; `Lalm` implements the rest of `Backbone` for all of them."""

    key: str
    """The backbone's key in the catalogue and in params."""
    audio_token: str
    """The placeholder of audio in a prompt."""
    template: str
    """The published chat template, for a checkpoint without one."""
    tensor_prefix: str
    """Prefix of the model's tensor names in a checkpoint of several models; empty for a checkpoint of one model."""

    def model_class(self) -> Any:
        """Return the stock transformers class."""

    def model_config(self, config: Any) -> Any | None:
        """Return the configuration of that class, given the result of `AutoConfig`; None if it belongs to another LALM."""

    def window_samples(self, config: Any, extractor: Any) -> int | None:
        """Return the samples of the audio tower's window; None if the tower accepts any length."""

    def limit_samples(self, config: Any, extractor: Any) -> int:
        """Return the samples of the longest clip that the model was published for."""

    def long_limit_samples(self, config: Any, extractor: Any) -> int:
        """Return the samples of the longest clip with `long_audio: windows`; `limit_samples` if the option changes nothing."""

    def embed_audio(self, model: Any, mel: Mel) -> list[Tensor]:
        """Run tower and projector; return `[A, D]` per clip."""

    def audio_inputs(self, model: Any, mel: Mel) -> dict[str, Tensor]:
        """Return the audio arguments of the stock `forward` and `generate`."""


class Backbone(Protocol):
    """A LALM: audio tower + projector + decoder-only language model.

    LALMs differ by properties and methods of their `Architecture`, never by `if name == …` elsewhere.
    """

    key: str
    """The backbone's key in the catalogue and in params."""
    model: nn.Module
    """The stock transformers model; `generate` and `save_pretrained` are called on it."""
    tokenizer: Any
    """The tokenizer; its `chat_template` is the only template (the thinking block rewrites it)."""

    @property
    def hidden_size(self) -> int:
        """Width D of the language model."""

    @property
    def layer_count(self) -> int:
        """Number of decoder layers of the language model."""

    @property
    def audio_token_rate_hz(self) -> float:
        """Audio tokens per second (25 for all three)."""

    @property
    def longest_clip(self) -> int:
        """Samples (16 kHz) of the longest clip that `encode` accepts."""

    @property
    def audio_token_id(self) -> int:
        """Id of the placeholder that is repeated once per audio token."""

    @property
    def end_of_turn(self) -> str:
        """Text of the token that ends an assistant turn (`<|im_end|>`)."""

    @property
    def embedding(self) -> nn.Embedding:
        """The language model's input embedding (not tied to the output)."""

    @property
    def layers(self) -> nn.ModuleList:
        """The decoder layers, for hooks."""

    def lora_targets(self, modules: Sequence[str]) -> str:
        """Return an anchored regular expression that matches exactly those linear layers of the language model."""

    def audio_token_count(self, samples: int) -> int:
        """Return the number of audio tokens of a clip of `samples` samples (16 kHz)."""

    def messages(self, text: str) -> list[dict[str, Any]]:
        """Return the stock chat messages of one question about one clip (the input of `apply_chat_template`)."""

    def mel(self, waveforms: Sequence[NDArray[np.float32]]) -> Mel:
        """Return log-mel features; batched and one by one are equal."""

    def embed_audio(self, mel: Mel) -> list[Tensor]:
        """Run tower and projector; return `[A, D]` per clip (A audio tokens)."""

    def audio_state(self) -> dict[str, Tensor]:
        """Return the weights outside the language model by name: those of tower and projector (of an omni model also its vision tower)."""

    def audio_config(self) -> dict[str, Any]:
        """Return the settings of front end and tower that change the audio embeddings, as JSON."""

    def encode(self, queries: Sequence[Query], *, generation: bool = False) -> Batch:
        """Tokenize through the template: prompts and answers, right-padded, or (`generation`) prompts only, left-padded.

        Raises:
            BackboneError: an example is too long, or its placeholders do not match its audio tokens; the message names it.
        """

    def embed(self, batch: Batch, audio: Sequence[Tensor]) -> Tensor:
        """Return input embeddings `[B, L, D]`, with the audio embeddings at the placeholders.

        Raises:
            BackboneError: the counts of placeholders and audio embeddings differ.
        """

    def hidden_states(self, embeddings: Tensor, attention_mask: Tensor, layer: int, blocked: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Run the decoder; return the states after decoder layer `layer` and those after the final norm, both `[B, L, D]`.

        Layers count from 1. The states of a layer are taken before the final norm. Where `blocked` `[B, L, L]` is True, the position of
        the row cannot attend to that of the column; a position always attends to itself.

        Raises:
            BackboneError: there is no such layer, or the attention implementation cannot block pairs of positions.
        """

    def answer_logits(self, states: Tensor) -> Tensor:
        """Return logits `[n, V]` of states after the final norm `[n, D]`."""

    def generation_inputs(self, batch: Batch, audio: Sequence[Tensor] | None = None) -> dict[str, Tensor]:
        """Return the keyword arguments of the stock `model.generate` for a left-padded batch.

        Without `audio`, they are ids, mask and mel features, as the stock processor makes them. With `audio`, the outputs of
        `embed_audio` `[A, D]` for each clip, they are ids, mask, positions and input embeddings: the tower does not run.
        """

    def save(self, folder: str, *, weights: bool = True) -> None:
        """Save model (safetensors), tokenizer, front end and template in the published layout."""
