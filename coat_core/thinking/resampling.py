"""Resampling over time: think tokens to the frames of a clip, and expert features to the target rate."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def frame_count(duration_s: float, rate_hz: float, max_frames: int) -> int:
    """Return T, the number of frames of a clip at the target rate: at least 1, at most `max_frames`."""
    return max(1, min(max_frames, round(duration_s * rate_hz)))


def frame_width_s(duration_s: float, rate_hz: float, max_frames: int) -> float:
    """Return the duration of a frame in seconds: 1 / rate, or more where `max_frames` limits the frames of a long clip."""
    return max(1.0 / rate_hz, duration_s / max_frames)


def pool_frames(features: Tensor, mask: Tensor, native_rate_hz: float, frames: int, width_s: float) -> tuple[Tensor, Tensor]:
    """Average features `[N, d]` over the valid native frames of each target frame.

    Native frame n is at n / native_rate_hz seconds. Target frame t covers [t, t + 1) · width_s. Native frames beyond the last
    target frame are ignored, except those within one frame (rounding), which are added to the last target frame.

    Args:
        features: features at the native rate.
        mask: `[N]`, True where a native frame is valid.
        native_rate_hz: native frames per second.
        frames: T.
        width_s: duration of a target frame in seconds.

    Returns:
        Means `[T, d]` (float32, zero where no native frame is valid) and the mask `[T]`.
    """
    features, mask = features.float(), mask.bool()
    native = torch.arange(features.shape[0], device=features.device, dtype=torch.float64)
    # The small shift keeps a frame on a border from being rounded into the bin below.
    bins = torch.floor(native / (native_rate_hz * width_s) + 1e-6).long()
    # Ignored frames go to an extra bin, which is dropped: boolean indexing would synchronise with the GPU for each clip.
    bins = torch.where(mask & (bins <= frames), bins.clamp_max(frames - 1), frames)
    total = features.new_zeros((frames + 1, features.shape[1])).index_add_(0, bins, features)[:frames]
    count = features.new_zeros(frames + 1).index_add_(0, bins, torch.ones_like(bins, dtype=torch.float32))[:frames]
    return total / count.clamp_min(1.0)[:, None], count > 0


def interpolate(tokens: Tensor, frames: Sequence[int], counts: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Interpolate K token states linearly to the T frames of each clip.

    Token k is at (k + ½) / K of the clip and frame t at (t + ½) / T. Frames before the first and after the last token get the
    states of that token.

    Args:
        tokens: `[B, K, W]`, finite.
        frames: T of each clip.
        counts: number of valid tokens of each clip `[B]`, which precede its padding; None: all K.

    Returns:
        States `[B, max T, W]`, zero beyond the T of a clip, and the mask `[B, max T]`.
    """
    mask = frame_mask(frames, tokens.device)
    t = torch.arange(mask.shape[1], device=tokens.device)
    K: Tensor | int = tokens.shape[1] if counts is None else counts.clamp_min(1)[:, None]
    position = ((t[None, :] + 0.5) * K / mask.sum(dim=1, keepdim=True) - 0.5).clamp_min(0)
    position = position.clamp(max=K - 1) if isinstance(K, int) else torch.minimum(position, (K - 1).to(position))
    low = position.floor().long()
    high = (low + 1).clamp_max(K - 1) if isinstance(K, int) else torch.minimum(low + 1, K - 1)
    share = (position - low).to(tokens.dtype)[..., None]
    width = tokens.shape[2]
    at_low = tokens.gather(1, low[..., None].expand(-1, -1, width))
    at_high = tokens.gather(1, high[..., None].expand(-1, -1, width))
    return (at_low * (1 - share) + at_high * share) * mask[..., None], mask


def frame_mask(frames: Sequence[int], device: torch.device) -> Tensor:
    """Return the mask `[B, max T]`, True on the first T positions of each clip."""
    counts = torch.tensor(list(frames), device=device)
    return torch.arange(max(frames), device=device)[None, :] < counts[:, None]


def time_features(counts: Tensor, durations_s: Tensor, longest: int, width: int) -> Tensor:
    """Return sines and cosines `[B, longest, width]` (float32) of the times of points spread evenly over each clip.

    Point n of N is at the share (n + ½) / N of its clip. The first half of the features encodes this share, with 1, 3, 5 … half periods
    a clip and then with half as many; the second half encodes the time in seconds, with periods from 0.16 s to 60 s. Sine and cosine of
    an angle are neighbours, so the dot product of some neighbouring features of two points is largest where their times are equal.

    Args:
        counts: N of each clip `[B]`.
        durations_s: duration of each clip `[B]`.
        longest: number of points to return, at least the largest N; later ones continue at the same distance.
        width: number of features.
    """
    device = counts.device
    share = (torch.arange(longest, device=device)[None, :] + 0.5) / counts.clamp_min(1)[:, None]
    eighth = (width + 7) // 8
    odd = math.pi * (2 * torch.arange(eighth, device=device) + 1)
    absolute = 2 * math.pi / torch.logspace(math.log10(0.16), math.log10(60.0), 2 * eighth, device=device)
    seconds = share * durations_s[:, None]
    angles = torch.cat([share[..., None] * torch.cat([odd, odd / 2]), seconds[..., None] * absolute], dim=-1)
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(2)[..., :width]


def sinusoidal_positions(frames: int, width: int, device: torch.device) -> Tensor:
    """Return sinusoidal positions `[frames, width]` (Attention Is All You Need, arXiv 1706.03762)."""
    half = (width + 1) // 2
    rates = torch.exp(-torch.arange(half, device=device, dtype=torch.float32) * (9.210340371976184 / max(half, 1)))
    angles = torch.arange(frames, device=device, dtype=torch.float32)[:, None] * rates[None, :]
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)[:, :width]
