"""Resampling over time: think tokens to the frames of a clip, and expert features to the target rate."""

from __future__ import annotations

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


def interpolate(tokens: Tensor, frames: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Interpolate K token states linearly to the T frames of each clip.

    Token k is at (k + ½) / K of the clip and frame t at (t + ½) / T. Frames before the first and after the last token get the
    states of that token.

    Args:
        tokens: `[B, K, W]`.
        frames: T of each clip.

    Returns:
        States `[B, max T, W]`, zero beyond the T of a clip, and the mask `[B, max T]`.
    """
    K = tokens.shape[1]
    counts = torch.tensor(list(frames), device=tokens.device)
    t = torch.arange(max(frames), device=tokens.device)
    mask = t[None, :] < counts[:, None]
    position = ((t[None, :] + 0.5) * K / counts[:, None] - 0.5).clamp(0, K - 1)
    low = position.floor().long()
    high = (low + 1).clamp_max(K - 1)
    share = (position - low).to(tokens.dtype)[..., None]
    width = tokens.shape[2]
    at_low = tokens.gather(1, low[..., None].expand(-1, -1, width))
    at_high = tokens.gather(1, high[..., None].expand(-1, -1, width))
    return (at_low * (1 - share) + at_high * share) * mask[..., None], mask


def sinusoidal_positions(frames: int, width: int, device: torch.device) -> Tensor:
    """Return sinusoidal positions `[frames, width]` (Attention Is All You Need, arXiv 1706.03762)."""
    half = (width + 1) // 2
    rates = torch.exp(-torch.arange(half, device=device, dtype=torch.float32) * (9.210340371976184 / max(half, 1)))
    angles = torch.arange(frames, device=device, dtype=torch.float32)[:, None] * rates[None, :]
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)[:, :width]
