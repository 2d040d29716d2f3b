"""The front end of all three LALMs: Whisper's log-mel features, computed for a clip's true length.

The stock extractor pads every clip to its longest one (Qwen2.5-Omni: 300 s, the others: 30 s) and computes the features of the
silence too. Here only frames that the signal reaches are computed; the rest of a window is filled with the value that silence
has. What stands on valid frames is what the stock extractor gives for the padded clip: same filters, same window, same float32
operations in the same order, and the same reflection at both ends of the padded clip.

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
"""Samples that an STFT window of 400 reaches beyond its centre."""
_BLOCK = 1000
"""Frames that a thread computes at once (10 s), so that what is needed on the way stays small whatever the length."""
_DYNAMIC_RANGE = 8.0
"""Powers of ten below a clip's loudest value at which its features end."""


def frame_count(samples: int) -> int:
    """Return the valid mel frames of a clip: ceil(N / 160)."""
    return -(-samples // HOP)


def token_count(frames: int) -> int:
    """Return the audio tokens of a clip: two halvings of the mel frames, as each of the three towers does them.

    A clip heard in windows takes the tokens of its windows together, which is the same number: a window's frames divide by
    four. A last window of one or two frames adds none.
    """
    return ((frames - 1) // 2 + 1 - 2) // 2 + 1


def log_mel(extractor: Any, waveforms: Sequence[NDArray[np.float32]], window: int | None, *, device: torch.device | str = "cpu") -> Mel:
    """Return the features of a batch; each clip is computed on its own, so one by one equals batched, bit by bit.

    Args:
        extractor: a `WhisperFeatureExtractor`; its filters and its longest clip are used.
        waveforms: mono clips `[N]` at 16 kHz.
        window: samples of the tower's window, of which a clip takes as many as it needs and fills the last with silence;
            None: the tower takes any length up to the extractor's longest, and clips are padded with zeros to the longest
            of the batch.
        device: where the features are computed and left.

    Raises:
        BackboneError: a clip is not a mono waveform with at least one sample, or is longer than the extractor's longest
            (windows: of any length); or the extractor computes something else than Whisper's features.
    """
    _check_extractor(extractor)
    edge = window or int(extractor.n_samples)
    for waveform in waveforms:
        _check_clip(waveform, None if window else edge)
    frames = torch.tensor([frame_count(len(waveform)) for waveform in waveforms])
    span = edge // HOP
    width = max(count if window is None else -(-count // span) * span for count in frames.tolist())
    features = torch.zeros(len(waveforms), int(extractor.feature_size), width, device=device)
    filters = torch.from_numpy(extractor.mel_filters).to(device, torch.float32).T.contiguous()
    for row, waveform in zip(features, waveforms, strict=True):
        signal = torch.from_numpy(np.require(waveform, np.float32, ["C", "W"])).to(device)
        for start in range(0, len(signal), edge):
            piece, first = signal[start : start + edge], start // HOP
            valid = frame_count(len(piece)) if window is None else span
            _write_piece(row[:, first : first + valid], piece, edge, filters)
    return Mel(features, frames)


def split_windows(mel: Mel, window: int) -> tuple[Tensor, Tensor, list[int]]:
    """Return the windows of all clips as rows, clip after clip.

    Args:
        mel: of a batch; each clip padded to whole windows.
        window: frames of a window.

    Returns:
        Features `[W, n_mels, window]`, the valid frames of each window `[W]`, and how many windows each clip has.
    """
    counts = mel.frames.tolist()
    windows = [-(-count // window) for count in counts]
    features = torch.cat(
        [row[:, : n * window].unflatten(1, (n, window)).transpose(0, 1) for row, n in zip(mel.features, windows, strict=True)]
    )
    valid = [min(window, count - start) for count in counts for start in range(0, count, window)]
    return features, torch.tensor(valid), windows


def _check_extractor(extractor: Any) -> None:
    """Refuse a front end whose features these are not (the published ones of all three LALMs are Whisper's)."""
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
            "a clip is longer than the front end's longest",
            field="waveform",
            value=f"{len(waveform) / SAMPLE_RATE_HZ:.2f} s",
            allowed=f"at most {limit / SAMPLE_RATE_HZ:g} s",
            next_step="cut the clip; nothing is truncated",
        )


def _write_piece(target: Tensor, piece: Tensor, edge: int, filters: Tensor) -> None:
    """Write the features of a piece that silence follows up to `edge` samples into `[n_mels, frames]`.

    Frames beyond those that are wanted are computed where the signal reaches into them: the loudest value, from which the
    floor is counted, may stand there.
    """
    reached = min(edge // HOP, -(-(len(piece) + REACH) // HOP))
    wanted = min(reached, target.shape[1])
    level = target[:, :reached] if wanted == reached else torch.empty(len(filters), reached, device=target.device)
    padded = _padded(piece, edge, reached)
    taper = torch.hann_window(2 * REACH, device=target.device)
    block = _BLOCK * torch.get_num_threads()
    for start in range(0, reached, block):
        end = min(start + block, reached)
        part = padded[start * HOP : (end - 1) * HOP + 2 * REACH]
        spectrum = torch.stft(part, 2 * REACH, HOP, window=taper, center=False, return_complex=True)
        torch.matmul(filters, spectrum.abs().square_(), out=level[:, start:end])
    silence = torch.full((1,), 1e-10, device=target.device).log10_()
    floor = level.clamp_(min=1e-10).log10_().max() - _DYNAMIC_RANGE
    torch.maximum(level[:, :wanted], floor, out=target[:, :wanted])
    target[:, wanted:] = torch.maximum(silence, floor)
    target.add_(4.0).div_(4.0)


def _padded(piece: Tensor, edge: int, frames: int) -> Tensor:
    """Return what the first STFT windows of a piece read: silence after it up to `edge`, and both ends reflected there."""
    padded = piece.new_zeros((frames - 1) * HOP + 2 * REACH)
    body = padded[REACH : REACH + edge]
    body[: len(piece)] = piece[: len(body)]
    padded[:REACH] = padded[REACH + 1 : 2 * REACH + 1].flip(0)
    beyond = len(padded) - REACH - edge
    if beyond > 0:
        padded[-beyond:] = padded[-2 * beyond - 1 : -beyond - 1].flip(0)
    return padded
