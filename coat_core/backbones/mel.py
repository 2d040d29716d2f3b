"""The front end of all three LALMs: Whisper's log-mel features, computed for a clip's true length.

The stock extractor pads every clip to its maximum length (Qwen2.5-Omni: 300 s, the others: 30 s) and computes the features of the
silence too. This module computes only the frames whose STFT window contains signal, and fills the rest with the value of silence.
On valid frames the result equals the stock extractor's for the padded clip: same filters, same window, same float32 operations in
the same order, and the same reflection at both ends of the padded clip.

Source: Radford et al., "Robust Speech Recognition via Large-Scale Weak Supervision" (Whisper), arXiv:2212.04356.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from coat_core.backbones.base import SAMPLE_RATE_HZ, Mel
from coat_core.errors import BackboneError

HOP = 160
"""Samples between mel frames (100 Hz)."""
REACH = 200
"""Samples on each side of the centre of an STFT window of 400."""
_BLOCK = 1000
"""Frames that a thread computes at once (10 s), so that temporary memory does not grow with the clip."""
_DYNAMIC_RANGE = 8.0
"""Features are clipped at this many powers of ten below the clip's maximum."""


def frame_count(samples: int) -> int:
    """Return the valid mel frames of a clip: ceil(N / 160)."""
    return -(-samples // HOP)


def token_count(frames: int) -> int:
    """Return the number of audio tokens of a clip: the mel frames, halved twice as in each of the three towers.

    For a clip in several windows this equals the sum over its windows, because the frames of a full window are divisible by
    four. A last window of one or two frames adds no token.
    """
    return ((frames - 1) // 2 + 1 - 2) // 2 + 1


def log_mel(extractor: Any, waveforms: Sequence[NDArray[np.float32]], window: int | None, *, device: torch.device | str = "cpu") -> Mel:
    """Return the features of a batch. Each clip is computed separately, so batched and one by one are bit-identical.

    Args:
        extractor: a `WhisperFeatureExtractor`; its filters and its maximum length are used.
        waveforms: mono clips `[N]` at 16 kHz.
        window: samples of the tower's window; a clip is padded with silence to whole windows. None: the tower accepts any
            length up to the extractor's maximum, and features are padded with zeros to the longest clip of the batch.
        device: device of the computation and of the result.

    Raises:
        BackboneError: a clip is not a mono waveform with at least one sample, or is longer than the extractor's maximum
            (with windows: of any length); or the extractor does not compute Whisper's features.
    """
    _check_extractor(extractor)
    length = window or int(extractor.n_samples)
    for waveform in waveforms:
        _check_clip(waveform, None if window else length)
    frames = torch.tensor([frame_count(len(waveform)) for waveform in waveforms])
    span = length // HOP
    width = max(count if window is None else -(-count // span) * span for count in frames.tolist())
    features = torch.zeros(len(waveforms), int(extractor.feature_size), width, device=device)
    filters = torch.from_numpy(extractor.mel_filters).to(device, torch.float32).T.contiguous()
    for row, waveform in zip(features, waveforms, strict=True):
        signal = torch.from_numpy(np.require(waveform, np.float32, ["C", "W"])).to(device)
        for start in range(0, len(signal), length):
            piece, first = signal[start : start + length], start // HOP
            valid = frame_count(len(piece)) if window is None else span
            _write_piece(row[:, first : first + valid], piece, length, filters)
    return Mel(features, frames)


def split_windows(mel: Mel, window: int) -> tuple[Tensor, Tensor, list[int]]:
    """Return the windows of all clips as rows, clip after clip.

    Args:
        mel: the features of a batch; each clip padded to whole windows.
        window: frames of a window.

    Returns:
        Features `[W, n_mels, window]`, the valid frames of each window `[W]`, and the number of windows of each clip.
    """
    counts = mel.frames.tolist()
    windows = [-(-count // window) for count in counts]
    features = torch.cat(
        [row[:, : n * window].unflatten(1, (n, window)).transpose(0, 1) for row, n in zip(mel.features, windows, strict=True)]
    )
    valid = [min(window, count - start) for count in counts for start in range(0, count, window)]
    return features, torch.tensor(valid), windows


def _check_extractor(extractor: Any) -> None:
    """Refuse a front end other than Whisper's (all three LALMs publish Whisper's)."""
    expected = {"n_fft": 2 * REACH, "hop_length": HOP, "sampling_rate": SAMPLE_RATE_HZ, "dither": 0.0, "padding_value": 0.0}
    for name, value in expected.items():
        found = getattr(extractor, name, value)
        if found != value:
            raise BackboneError(
                "the checkpoint's front end does not compute Whisper's features",
                field=f"preprocessor_config.{name}",
                value=found,
                allowed=str(value),
                next_step="use the published preprocessor_config.json",
            )


def _check_clip(waveform: NDArray[np.float32], limit: int | None) -> None:
    if waveform.ndim != 1 or not len(waveform):
        raise BackboneError("a clip must be mono with at least one sample", field="waveform", value=waveform.shape, allowed="[N]")
    if limit is not None and len(waveform) > limit:
        raise BackboneError(
            "a clip is longer than the front end's maximum",
            field="waveform",
            value=f"{len(waveform) / SAMPLE_RATE_HZ:.2f} s",
            allowed=f"at most {limit / SAMPLE_RATE_HZ:g} s",
            next_step="cut the clip; clips are never truncated",
        )


def _write_piece(target: Tensor, piece: Tensor, length: int, filters: Tensor) -> None:
    """Write the features of a piece, followed by silence up to `length` samples, into `target` `[n_mels, frames]`.

    Frames after the last valid one are computed too if their STFT window contains signal: the maximum, from which the floor is
    derived, can be in such a frame.
    """
    computed = min(length // HOP, -(-(len(piece) + REACH) // HOP))
    kept = min(computed, target.shape[1])
    level = target[:, :computed] if kept == computed else torch.empty(len(filters), computed, device=target.device)
    padded = _pad(piece, length, computed)
    taper = torch.hann_window(2 * REACH, device=target.device)
    block = _BLOCK * torch.get_num_threads()
    for start in range(0, computed, block):
        end = min(start + block, computed)
        part = padded[start * HOP : (end - 1) * HOP + 2 * REACH]
        spectrum = torch.stft(part, 2 * REACH, HOP, window=taper, center=False, return_complex=True)
        torch.matmul(filters, spectrum.abs().square_(), out=level[:, start:end])
    silence = torch.full((1,), 1e-10, device=target.device).log10_()
    floor = level.clamp_(min=1e-10).log10_().max() - _DYNAMIC_RANGE
    torch.maximum(level[:, :kept], floor, out=target[:, :kept])
    target[:, kept:] = torch.maximum(silence, floor)
    target.add_(4.0).div_(4.0)


def _pad(piece: Tensor, length: int, frames: int) -> Tensor:
    """Return the input of the first `frames` STFT windows: the piece, silence up to `length`, and the reflection at both ends."""
    padded = piece.new_zeros((frames - 1) * HOP + 2 * REACH)
    body = padded[REACH : REACH + length]
    body[: len(piece)] = piece[: len(body)]
    padded[:REACH] = padded[REACH + 1 : 2 * REACH + 1].flip(0)
    beyond = len(padded) - REACH - length
    if beyond > 0:
        padded[-beyond:] = padded[-2 * beyond - 1 : -beyond - 1].flip(0)
    return padded
