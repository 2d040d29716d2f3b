"""`Lalm`: the `Backbone` interface for any architecture of the catalogue."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from coat_core.backbones.base import SAMPLE_RATE_HZ, Architecture, Batch, Mel, Query
from coat_core.backbones.mel import HOP, frame_count, log_mel, token_count
from coat_core.backbones.prompts import encode_queries, user_messages
from coat_core.errors import BackboneError
from coat_core.storage import sha256_bytes

_DECODER = "model.language_model"
_NO_EFFECT = ("architectures", "dtype", "torch_dtype", "transformers_version")
"""Keys of a tower's configuration that change no output; the weights have their data type."""


class Lalm:
    """A stock transformers model, its tokenizer and its front end. `Backbone` documents the members.

    Modules are looked up in `model` at every call, so that the object stays valid after PEFT injects LoRA or merges it.

    Args:
        architecture: the part that differs between LALMs.
        model: the stock model.
        tokenizer: its tokenizer, with the template.
        extractor: a `WhisperFeatureExtractor`.
        long_audio: for a clip longer than a tower's single window: `refuse` it, or process it in `windows`, whose embeddings are
            concatenated in one span of placeholders.
    """

    def __init__(self, architecture: Architecture, model: Any, tokenizer: Any, extractor: Any, *, long_audio: str = "refuse") -> None:
        self.architecture = architecture
        self.key = architecture.key
        self.model: Any = model
        self.tokenizer: Any = tokenizer
        self.extractor: Any = extractor
        self.long_audio = long_audio

    @property
    def hidden_size(self) -> int:
        """Width D of the language model."""
        return int(self.model.config.text_config.hidden_size)

    @property
    def layer_count(self) -> int:
        """Number of decoder layers."""
        return len(self.layers)

    @property
    def audio_token_rate_hz(self) -> float:
        """Audio tokens per second: mel frames at 100 Hz, halved twice."""
        return SAMPLE_RATE_HZ / HOP / 4

    @property
    def audio_token_id(self) -> int:
        """Id of the placeholder."""
        return int(self.model.config.audio_token_id)

    @property
    def end_of_turn(self) -> str:
        """The end-of-turn token of the Qwen chat format."""
        return "<|im_end|>"

    @property
    def embedding(self) -> nn.Embedding:
        """The language model's input embedding."""
        embedding: nn.Embedding = self.model.get_input_embeddings()
        return embedding

    @property
    def layers(self) -> nn.ModuleList:
        """The decoder layers."""
        layers: nn.ModuleList = self._decoder.layers
        return layers

    @property
    def _decoder(self) -> Any:
        return self.model.get_submodule(_DECODER)

    def lora_targets(self, modules: Sequence[str]) -> str:
        """Return a regular expression for those linear layers of the decoder.

        Raises:
            BackboneError: a decoder layer has no linear layer of one of these names.
        """
        names = {name.rsplit(".", 1)[-1] for name, module in self.layers[0].named_modules() if isinstance(module, nn.Linear)}
        unknown = sorted(set(modules) - names)
        if unknown or not modules:
            raise BackboneError("no such linear layers in the language model", field="lora.modules", value=unknown, allowed=sorted(names))
        return rf"^{re.escape(_DECODER)}\.layers\.\d+\.(?:self_attn|mlp)\.(?:{'|'.join(map(re.escape, modules))})$"

    @property
    def longest_clip(self) -> int:
        """Samples of the longest clip that `encode` accepts."""
        limit = self.architecture.long_limit_samples if self.long_audio == "windows" else self.architecture.limit_samples
        return limit(self.model.config, self.extractor)

    def audio_token_count(self, samples: int) -> int:
        """Return the number of audio tokens of a clip of `samples` samples."""
        return token_count(frame_count(samples))

    def messages(self, text: str) -> list[dict[str, Any]]:
        """Return the stock chat messages of one question about one clip."""
        return user_messages(text)

    def mel(self, waveforms: Sequence[NDArray[np.float32]]) -> Mel:
        """Return log-mel features, padded as the tower requires."""
        return log_mel(self.extractor, waveforms, self.architecture.window_samples(self.model.config, self.extractor))

    def embed_audio(self, mel: Mel) -> list[Tensor]:
        """Run tower and projector."""
        return self.architecture.embed_audio(self.model, mel)

    def audio_state(self) -> dict[str, Tensor]:
        """Return the weights outside the decoder and the output layer."""
        language = (f"{_DECODER}.", "lm_head.")
        return {name: value.detach() for name, value in self.model.state_dict().items() if not name.startswith(language)}

    def audio_config(self) -> dict[str, Any]:
        """Return the tower's configuration, without names and data types, and the front end's parameters and filters."""
        config = self.model.config.audio_config.to_diff_dict()
        tower = {key: value for key, value in config.items() if not key.startswith("_") and key not in _NO_EFFECT}
        filters = np.ascontiguousarray(self.extractor.mel_filters, dtype=np.float64)
        front_end = {"n_samples": int(self.extractor.n_samples), "mel_filters": sha256_bytes(filters.tobytes())}
        return {"architecture": self.key, "tower": tower, "front_end": front_end}

    def encode(self, queries: Sequence[Query], *, generation: bool = False) -> Batch:
        """Tokenize through the template."""
        return encode_queries(
            self.tokenizer,
            queries,
            audio_token=self.architecture.audio_token,
            audio_tokens=self._audio_tokens,
            end_of_turn=self.end_of_turn,
            max_positions=int(self.model.config.text_config.max_position_embeddings),
            generation=generation,
        )

    def _audio_tokens(self, query: Query) -> int:
        samples, allowed = len(query.waveform), self.longest_clip
        longest = self.architecture.long_limit_samples(self.model.config, self.extractor)
        count = self.audio_token_count(samples)
        if query.waveform.ndim != 1 or samples > allowed or count < 1:
            seconds = samples / SAMPLE_RATE_HZ
            windows_advice = (
                f"set backbones.{self.key}.long_audio: windows to process up to {longest / SAMPLE_RATE_HZ:g} s window by window, or "
                if allowed < samples <= longest
                else ""
            )
            raise BackboneError(
                f"{query.name or query.key[:12]}: the clip does not fit the audio tower of {self.key}",
                field="waveform",
                value=f"{query.waveform.shape} samples, {seconds:.2f} s",
                allowed=f"mono, 0.03 s to {allowed / SAMPLE_RATE_HZ:g} s",
                next_step=f"{windows_advice}cut the clip, or exclude it by the contract; clips are never truncated",
            )
        return count

    def embed(self, batch: Batch, audio: Sequence[Tensor]) -> Tensor:
        """Return input embeddings, with the audio embeddings at the placeholders.

        Raises:
            BackboneError: the counts of placeholders and audio embeddings of a row differ.
        """
        ids = batch.input_ids.to(self.embedding.weight.device)
        is_audio = ids == self.audio_token_id
        expected, given = is_audio.sum(-1).tolist(), [len(states) for states in audio]
        if expected != given:
            padded = [*given, *[-1] * len(expected)]
            wrong = [query.name or query.key[:12] for query, e, g in zip(batch.queries, expected, padded, strict=False) if e != g]
            raise BackboneError(
                f"audio placeholders and audio embeddings differ: {', '.join(wrong) or 'more clips than rows'}",
                field="placeholders",
                value=expected,
                allowed=str(given),
            )
        embeddings: Tensor = self.embedding(ids)
        return embeddings.masked_scatter(is_audio[..., None], torch.cat(list(audio)).to(embeddings.device, embeddings.dtype))

    def hidden_states(self, embeddings: Tensor, attention_mask: Tensor, layer: int, blocked: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Run the decoder; return the states after `layer` and after the final norm.

        Positions count the tokens from 0 without padding, on either padding side. They are passed explicitly: otherwise the
        thinker of Qwen2.5-Omni uses offsets that an earlier call stored in the model. `blocked` does not change them.
        """
        if not 1 <= layer <= self.layer_count:
            raise BackboneError("no such decoder layer", field="read_layer", value=layer, allowed=f"1 to {self.layer_count}")
        read: list[Tensor] = []
        mask = attention_mask.to(embeddings.device)
        hook = self.layers[layer - 1].register_forward_hook(lambda module, args, output: read.append(output))
        try:
            final: Tensor = self._decoder(
                inputs_embeds=embeddings,
                attention_mask=mask if blocked is None else self._attention(mask, blocked.to(mask.device), embeddings.dtype),
                position_ids=(mask.cumsum(-1) - 1).clamp(min=0),
                use_cache=False,
            ).last_hidden_state
        finally:
            hook.remove()
        return read[0], final

    def _attention(self, mask: Tensor, blocked: Tensor, dtype: torch.dtype) -> Tensor:
        """Return the attention mask `[B, 1, L, L]`, which the decoder takes as it is: causal, without padding, without blocked pairs."""
        length = mask.shape[1]
        causal = torch.ones(length, length, dtype=torch.bool, device=mask.device).tril()
        allowed = causal & mask.bool()[:, None, :] & ~blocked
        # A query without any key, as in padding, would give NaN.
        allowed = (allowed | torch.eye(length, dtype=torch.bool, device=mask.device))[:, None]
        implementation = self.model.config._attn_implementation
        if implementation == "sdpa":
            return allowed
        if implementation == "eager":
            return torch.zeros(allowed.shape, dtype=dtype, device=mask.device).masked_fill(~allowed, torch.finfo(dtype).min)
        raise BackboneError(
            "this attention implementation cannot block pairs of positions",
            field=f"backbones.{self.key}.attention",
            value=implementation,
            allowed="sdpa, eager",
            next_step="set it to sdpa",
        )

    def answer_logits(self, states: Tensor) -> Tensor:
        """Return logits of states after the final norm."""
        logits: Tensor = self.model.get_output_embeddings()(states)
        return logits

    def generation_inputs(self, batch: Batch, audio: Sequence[Tensor] | None = None) -> dict[str, Tensor]:
        """Return the arguments of the stock `generate` (and, without `audio`, `forward`).

        The ids accompany the embeddings because a repetition penalty counts the tokens of the prompt. The positions are passed explicitly:
        the thinker of Qwen2.5-Omni would derive them from ids and mel features together.
        """
        device = self.model.device
        mask = batch.attention_mask.to(device)
        inputs = {"input_ids": batch.input_ids.to(device), "attention_mask": mask}
        if audio is not None:
            return {**inputs, "position_ids": (mask.cumsum(-1) - 1).clamp(min=0), "inputs_embeds": self.embed(batch, audio)}
        return {**inputs, **self.architecture.audio_inputs(self.model, self.mel([query.waveform for query in batch.queries]))}

    def save(self, folder: str, *, weights: bool = True) -> None:
        """Save in the published layout; the template is written to `chat_template.jinja`."""
        if weights:
            self.model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        self.extractor.save_pretrained(folder)
        self.model.generation_config.save_pretrained(folder)
