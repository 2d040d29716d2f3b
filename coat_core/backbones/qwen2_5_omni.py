"""Qwen2.5-Omni, thinker only: audio tower on chunks of 2 s, Qwen2.5 with three-axis rotary positions.

Source: Xu et al., "Qwen2.5-Omni Technical Report", arXiv:2503.20215.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from coat_core.backbones.base import Mel
from coat_core.backbones.mel import token_count
from coat_core.backbones.template import qwen_template


class Qwen25Omni:
    """`Qwen2_5OmniThinkerForConditionalGeneration`, from a complete checkpoint (`thinker.…`) or from a thinker saved alone."""

    key = "qwen2_5_omni"
    audio_token = "<|AUDIO|>"
    template = qwen_template("<|audio_bos|><|AUDIO|><|audio_eos|>")
    tensor_prefix = "thinker."

    def model_class(self) -> Any:
        """Return the stock class."""
        from transformers import Qwen2_5OmniThinkerForConditionalGeneration

        return Qwen2_5OmniThinkerForConditionalGeneration

    def model_config(self, config: Any) -> Any | None:
        """Return the thinker's part of a complete configuration, or the configuration of a thinker saved alone."""
        if config.model_type == "qwen2_5_omni":
            return config.thinker_config
        return config if config.model_type == "qwen2_5_omni_thinker" else None

    def window_samples(self, config: Any, extractor: Any) -> int | None:
        """Return None: the tower splits its input into chunks itself."""
        return None

    def limit_samples(self, config: Any, extractor: Any) -> int:
        """Return the limit of the published front end (300 s); the stock processor truncates longer clips without a warning."""
        return int(extractor.n_samples)

    def long_limit_samples(self, config: Any, extractor: Any) -> int:
        """Return `limit_samples`: the tower accepts any length up to it."""
        return self.limit_samples(config, extractor)

    def embed_audio(self, model: Any, mel: Mel) -> list[Tensor]:
        """Run the tower on the concatenated valid frames of all clips."""
        states = model.model.get_audio_features(**self.audio_inputs(model, mel), return_dict=True).last_hidden_state
        return list(states.split([token_count(count) for count in mel.frames.tolist()]))

    def audio_inputs(self, model: Any, mel: Mel) -> dict[str, Tensor]:
        """Return one row per clip, padded to the longest."""
        mask = (torch.arange(mel.features.shape[-1])[None] < mel.frames[:, None]).long()
        return {"input_features": mel.features.to(model.device, model.dtype), "feature_attention_mask": mask.to(model.device)}
