"""From think tokens to a clip's own frames, and from an expert's native rate to the target rate."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def frame_count(duration_s: float, rate_hz: float, max_frames: int) -> int:
    """Return T, a clip's own number of frames at the target rate: at least 1, at most `max_frames`."""
    return max(1, min(max_frames, round(duration_s * rate_hz)))


def frame_width_s(duration_s: float, rate_hz: float, max_frames: int) -> float:
    """Return the seconds that a frame covers: 1 / rate, or more where a long clip is held to `max_frames`."""
    return max(1.0 / rate_hz, duration_s / max_frames)


def pool_frames(features: Tensor, mask: Tensor, native_rate_hz: float, frames: int, width_s: float) -> tuple[Tensor, Tensor]:
    """Average features `[N, d]` over the valid native frames of each target frame.

    Native frame n stands at n / native_rate_hz seconds; target frame t covers [t, t + 1) · width_s. Native frames beyond the
    last target frame are left out, but for one frame's rounding, which joins the last.

    Args:
        features: at the native rate.
        mask: `[N]`, True where a native frame is valid.
        native_rate_hz: native frames a second.
        frames: T.
        width_s: seconds a target frame covers.

    Returns:
        Means `[T, d]` (float32, zero where nothing is valid) and the mask `[T]`.
    """
    features, mask = features.float(), mask.bool()
    native = torch.arange(features.shape[0], device=features.device, dtype=torch.float64)
    # The small shift keeps a frame that stands on a border from falling below it by rounding.
    bins = torch.floor(native / (native_rate_hz * width_s) + 1e-6).long()
    # What is left out goes to a bin of its own, which is dropped: picking frames by a mask would make a GPU wait for each clip.
    bins = torch.where(mask & (bins <= frames), bins.clamp_max(frames - 1), frames)
    total = features.new_zeros((frames + 1, features.shape[1])).index_add_(0, bins, features)[:frames]
    count = features.new_zeros(frames + 1).index_add_(0, bins, torch.ones_like(bins, dtype=torch.float32))[:frames]
    return total / count.clamp_min(1.0)[:, None], count > 0


def stretch(tokens: Tensor, frames: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Interpolate K token states linearly to each clip's own T frames.

    Token k stands at (k + ½) / K of the clip and frame t at (t + ½) / T, both ends held.

    Args:
        tokens: `[B, K, W]`.
        frames: T of each clip.

    Returns:
        States `[B, max T, W]`, zero beyond a clip's own T, and the mask `[B, max T]`.
    """
    K = tokens.shape[1]
    counts = torch.tensor(list(frames), device=tokens.device)
    t = torch.arange(max(frames), device=tokens.device)
    mask = t[None, :] < counts[:, None]
    place = ((t[None, :] + 0.5) * K / counts[:, None] - 0.5).clamp(0, K - 1)
    low = place.floor().long()
    high = (low + 1).clamp_max(K - 1)
    share = (place - low).to(tokens.dtype)[..., None]
    width = tokens.shape[2]
    at_low = tokens.gather(1, low[..., None].expand(-1, -1, width))
    at_high = tokens.gather(1, high[..., None].expand(-1, -1, width))
    return (at_low * (1 - share) + at_high * share) * mask[..., None], mask


def positions_table(frames: int, width: int, device: torch.device) -> Tensor:
    """Return sinusoidal positions `[frames, width]` (Attention Is All You Need, arXiv 1706.03762)."""
    half = (width + 1) // 2
    rates = torch.exp(-torch.arange(half, device=device, dtype=torch.float32) * (9.210340371976184 / max(half, 1)))
    angles = torch.arange(frames, device=device, dtype=torch.float32)[:, None] * rates[None, :]
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)[:, :width]
