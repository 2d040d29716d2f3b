"""The front end of all three LALMs: Whisper's log-mel features, free of the stock extractor's edge effects.

The stock extractor reflects the signal at its end when it pads to the longest clip of a batch: the last frame changes, and
with it what a clip sounds like beside another. Zeros after the signal, as many as an STFT window reaches, end that.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from coat_core.backbones.base import SAMPLE_RATE_HZ, Mel
from coat_core.errors import BackboneError

HOP = 160
"""Samples between mel frames (100 Hz)."""
REACH = 200
"""Samples that an STFT window of 400 reaches beyond its centre."""


def frame_count(samples: int) -> int:
    """Return the valid mel frames of a clip: ceil(N / 160)."""
    return -(-samples // HOP)


def token_count(frames: int) -> int:
    """Return the audio tokens of that many mel frames: a stride-2 convolution, then a stride-2 mean pool."""
    return max(((frames - 1) // 2 + 1 - 2) // 2 + 1, 0)


def log_mel(extractor: Any, waveforms: Sequence[NDArray[np.float32]], window: int | None) -> Mel:
    """Return log-mel features; each clip is computed on its own, so one by one equals batched.

    Args:
        extractor: a `WhisperFeatureExtractor`.
        waveforms: mono clips `[N]` at 16 kHz.
        window: samples of the tower's window, of which a clip takes as many as it needs and fills the last with silence;
            None: the tower takes any length, and clips are padded to the longest.

    Raises:
        BackboneError: a clip is not a mono waveform with at least one frame.
    """
    clips = [_clip(extractor, waveform, window) for waveform in waveforms]
    frames = torch.tensor([frame_count(len(waveform)) for waveform in waveforms])
    features = torch.zeros(len(clips), int(extractor.feature_size), max(clip.shape[-1] for clip in clips))
    for row, clip in zip(features, clips, strict=True):
        row[:, : clip.shape[-1]] = torch.from_numpy(clip)
    return Mel(features, frames)


def _clip(extractor: Any, waveform: NDArray[np.float32], window: int | None) -> NDArray[np.float32]:
    if waveform.ndim != 1 or not len(waveform):
        raise BackboneError("a clip must be mono with at least one sample", field="waveform", value=waveform.shape, allowed="[N]")
    if window is None:
        return _features(extractor, waveform, len(waveform))
    pieces = [_features(extractor, waveform[start : start + window], window) for start in range(0, len(waveform), window)]
    return np.concatenate(pieces, axis=1)


def _features(extractor: Any, waveform: NDArray[np.float32], samples: int) -> NDArray[np.float32]:
    """Return the features `[n_mels, ceil(samples / 160)]` of a waveform followed by zeros."""
    length = max(frame_count(len(waveform) + REACH), frame_count(samples)) * HOP
    padded = np.zeros(length, dtype=np.float32)
    padded[: len(waveform)] = waveform
    features = extractor(
        [padded], sampling_rate=SAMPLE_RATE_HZ, padding="do_not_pad", truncation=False, return_attention_mask=False, return_tensors="np"
    )["input_features"][0]
    return np.asarray(features[:, : frame_count(samples)], dtype=np.float32)
