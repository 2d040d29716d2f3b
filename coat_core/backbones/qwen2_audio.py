"""Qwen2-Audio: a Whisper-like tower with one window of 30 s, a linear projector, Qwen.

Source: Chu et al., "Qwen2-Audio Technical Report", arXiv:2407.10759.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from coat_core.backbones.base import Mel
from coat_core.backbones.mel import HOP, split_windows, token_count
from coat_core.backbones.template import qwen_template

TEXT_POSITIONS = 512
"""Positions reserved for template, question, thinking block and answer when a long clip is processed in windows."""


class Qwen2Audio:
    """`Qwen2AudioForConditionalGeneration`: trained on one window of 30 s; `long_audio: windows` allows several."""

    key = "qwen2_audio"
    audio_token = "<|AUDIO|>"
    template = qwen_template("Audio {{ audios.count }}: <|audio_bos|><|AUDIO|><|audio_eos|>\n")
    tensor_prefix = ""

    def model_class(self) -> Any:
        """Return the stock class."""
        from transformers import Qwen2AudioForConditionalGeneration

        return Qwen2AudioForConditionalGeneration

    def model_config(self, config: Any) -> Any | None:
        """Return the configuration unchanged; None if it is of another model."""
        return config if config.model_type == "qwen2_audio" else None

    def window_samples(self, config: Any, extractor: Any) -> int | None:
        """Return the tower's fixed window: two mel frames per position."""
        return self.limit_samples(config, extractor)

    def limit_samples(self, config: Any, extractor: Any) -> int:
        """Return the samples of one window."""
        return int(config.audio_config.max_source_positions) * 2 * HOP

    def long_limit_samples(self, config: Any, extractor: Any) -> int:
        """Return the samples of the windows that fit into the language model's positions, less `TEXT_POSITIONS` (published: 10, 300 s)."""
        window = self.limit_samples(config, extractor)
        windows = (int(config.text_config.max_position_embeddings) - TEXT_POSITIONS) // token_count(window // HOP)
        return max(1, windows) * window

    def embed_audio(self, model: Any, mel: Mel) -> list[Tensor]:
        """Run the tower as the stock forward does (the class has no method for it) and concatenate the windows of a clip."""
        from transformers.masking_utils import create_bidirectional_mask

        tower, weight = model.model.audio_tower, model.model.audio_tower.conv1.weight
        windows, frames, counts = split_windows(mel, 2 * int(model.config.audio_config.max_source_positions))
        features, lengths = windows.to(weight.device, weight.dtype), ((frames - 1) // 2 + 1).to(weight.device)
        valid = torch.arange((features.shape[-1] - 2) // 2 + 1, device=weight.device)[None] < lengths[:, None]
        like = torch.zeros(*valid.shape, 1, dtype=weight.dtype, device=weight.device)
        mask = create_bidirectional_mask(config=tower.config, inputs_embeds=like, attention_mask=valid.long())
        states = model.model.multi_modal_projector(tower(features, attention_mask=mask).last_hidden_state)
        pieces = iter([row[: token_count(count)] for row, count in zip(states, frames.tolist(), strict=True)])
        return [torch.cat([next(pieces) for _ in range(count)]) if count > 1 else next(pieces) for count in counts]

    def audio_inputs(self, model: Any, mel: Mel) -> dict[str, Tensor]:
        """Return one row per window, clip after clip: the stock forward fills the placeholders in this order."""
        features, valid, _ = split_windows(mel, 2 * int(model.config.audio_config.max_source_positions))
        mask = (torch.arange(features.shape[-1])[None] < valid[:, None]).long()
        return {"input_features": features.to(model.device, model.dtype), "feature_attention_mask": mask.to(model.device)}
