"""Audio Flamingo 3: AF-Whisper tower on windows of 30 s, a two-layer projector, Qwen2.5.

Source: Goel et al., "Audio Flamingo 3", arXiv:2507.08128.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from coat_core.backbones.base import Mel
from coat_core.backbones.mel import HOP, split_windows, token_count
from coat_core.backbones.template import qwen_template

MAX_WINDOWS = 20


class AudioFlamingo3:
    """`AudioFlamingo3ForConditionalGeneration`."""

    key = "audio_flamingo_3"
    audio_token = "<sound>"
    template = qwen_template("<sound>")
    tensor_prefix = ""

    def model_class(self) -> Any:
        """Return the stock class."""
        from transformers import AudioFlamingo3ForConditionalGeneration

        return AudioFlamingo3ForConditionalGeneration

    def model_config(self, config: Any) -> Any | None:
        """Return the configuration unchanged; None if it is of another model."""
        return config if config.model_type == "audioflamingo3" else None

    def window_samples(self, config: Any, extractor: Any) -> int | None:
        """Return the samples of one window; a clip may have several."""
        return int(config.audio_config.max_source_positions) * 2 * HOP

    def limit_samples(self, config: Any, extractor: Any) -> int:
        """Return 20 windows (600 s as published)."""
        return MAX_WINDOWS * int(config.audio_config.max_source_positions) * 2 * HOP

    def long_limit_samples(self, config: Any, extractor: Any) -> int:
        """Return `limit_samples`: this model always splits a clip into windows."""
        return self.limit_samples(config, extractor)

    def embed_audio(self, model: Any, mel: Mel) -> list[Tensor]:
        """Run the tower on each window and concatenate the windows of a clip."""
        states = model.model.get_audio_features(**self.audio_inputs(model, mel), return_dict=True).pooler_output
        return list(states.split([token_count(count) for count in mel.frames.tolist()]))

    def audio_inputs(self, model: Any, mel: Mel) -> dict[str, Tensor]:
        """Return one row per window, clip after clip."""
        features, valid, _ = split_windows(mel, 2 * int(model.config.audio_config.max_source_positions))
        mask = (torch.arange(features.shape[-1])[None] < valid[:, None]).long()
        return {"input_features": features.to(model.device, model.dtype), "input_features_mask": mask.to(model.device)}
