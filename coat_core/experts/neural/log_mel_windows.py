"""Whisper's stock front end: every window is padded with silence to the length that the model requires (30 s, or less if it was cut)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from coat_core.experts.neural.base import Piece, Waveform
from coat_core.experts.neural.checkpoint import Checkpoint
from coat_core.experts.neural.windowing import Windowing


class LogMelWindows:
    """The stock `WhisperFeatureExtractor`, applied to windows of clips.

    Args:
        checkpoint: the checkpoint.
        positions: number of positions of the tower, one per two mel frames.
        hop: samples per frame of the expert.
        window_s: window in seconds of a tower whose positions were cut; None: the tower's own.

    Raises:
        ExpertError: the front end is missing, or its window differs from the tower's.
    """

    def __init__(self, checkpoint: Checkpoint, positions: int, hop: int, window_s: float | None = None) -> None:
        from transformers import WhisperFeatureExtractor

        self.extractor: Any = checkpoint.front_end(WhisperFeatureExtractor)
        self.hop = hop
        if self.extractor.nb_max_frames != 2 * positions:
            raise checkpoint.refuse(
                "its front end and its tower do not match", f"{self.extractor.nb_max_frames} mel frames", f"{2 * positions} mel frames"
            )
        self.window = int(self.extractor.n_samples) if window_s is None else round(window_s * self.extractor.sampling_rate)

    @property
    def windowing(self) -> Windowing:
        """The model's window, with a sixth of it as context on each side (5 s of 30 s)."""
        frames = self.window // self.hop
        return Windowing(frames, frames // 6)

    def prepare(self, waveform: Waveform) -> Waveform:
        """Return the clip unchanged."""
        return waveform

    def samples(self, frames: int) -> int:
        """Return the number of samples of the model's window: a shorter piece has the same cost."""
        return self.window

    def features(self, pieces: Sequence[Piece], like: Tensor) -> Tensor:
        """Return log-mel features `[B, mels, 2 · positions]` of windows, on the device and in the data type of `like`."""
        windows = [piece.clip[piece.start * self.hop : piece.stop * self.hop] for piece in pieces]
        options = {"padding": "max_length", "max_length": self.window, "truncation": True, "return_attention_mask": False}
        values = self.extractor(windows, sampling_rate=self.extractor.sampling_rate, return_tensors="pt", **options)["input_features"]
        return torch.as_tensor(values).to(like.device, like.dtype)
