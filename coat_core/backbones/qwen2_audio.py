"""Qwen2-Audio: a Whisper-like tower with one window of 30 s, a linear projector, Qwen.

Source: Chu et al., "Qwen2-Audio Technical Report", arXiv:2407.10759.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from coat_core.backbones.base import Mel
from coat_core.backbones.mel import HOP, token_count
from coat_core.backbones.template import qwen_template


class Qwen2Audio:
    """`Qwen2AudioForConditionalGeneration`."""

    key = "qwen2_audio"
    audio_token = "<|AUDIO|>"
    template = qwen_template("Audio {{ audios.count }}: <|audio_bos|><|AUDIO|><|audio_eos|>\n")

    def model_class(self) -> Any:
        """Return the stock class."""
        from transformers import Qwen2AudioForConditionalGeneration

        return Qwen2AudioForConditionalGeneration

    def model_config(self, config: Any) -> Any | None:
        """Return the configuration as it is, if it is Qwen2-Audio's."""
        return config if config.model_type == "qwen2_audio" else None

    def window_samples(self, config: Any, extractor: Any) -> int | None:
        """Return the one window that the tower insists on: two mel frames a position."""
        return int(config.audio_config.max_source_positions) * 2 * HOP

    def limit_samples(self, config: Any, extractor: Any) -> int:
        """Return the one window."""
        return int(config.audio_config.max_source_positions) * 2 * HOP

    def embed_audio(self, model: Any, mel: Mel) -> list[Tensor]:
        """Run the tower as the stock forward does, which has no method of its own for it."""
        from transformers.masking_utils import create_bidirectional_mask

        tower, weight = model.model.audio_tower, model.model.audio_tower.conv1.weight
        features, frames = mel.features.to(weight.device, weight.dtype), mel.frames.to(weight.device)
        lengths = (frames - 1) // 2 + 1
        valid = torch.arange((features.shape[-1] - 2) // 2 + 1, device=weight.device)[None] < lengths[:, None]
        like = torch.zeros(*valid.shape, 1, dtype=weight.dtype, device=weight.device)
        mask = create_bidirectional_mask(config=tower.config, inputs_embeds=like, attention_mask=valid.long())
        states = model.model.multi_modal_projector(tower(features, attention_mask=mask).last_hidden_state)
        return [row[: token_count(count)] for row, count in zip(states, mel.frames.tolist(), strict=True)]

    def audio_inputs(self, model: Any, mel: Mel) -> dict[str, Tensor]:
        """Return one row a clip."""
        mask = (torch.arange(mel.features.shape[-1])[None] < mel.frames[:, None]).long()
        return {"input_features": mel.features.to(model.device, model.dtype), "feature_attention_mask": mask.to(model.device)}
