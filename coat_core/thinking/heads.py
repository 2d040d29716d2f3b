"""Projection heads: one small transformer per expert, from think states to the expert's frames."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from coat_core.errors import TrainingError
from coat_core.experts.base import ExpertSpec
from coat_core.seeding import make_generator
from coat_core.settings import HeadSettings, LossSettings
from coat_core.thinking.losses import Target, expert_loss
from coat_core.thinking.resampling import frame_count, frame_width_s, interpolate, pool_frames, sinusoidal_positions

Normaliser = tuple[Tensor, Tensor]
"""Mean and standard deviation `[d]` of an expert's features over the training split."""


class Layer(nn.Module):
    """A pre-norm transformer encoder layer; a frame attends to the valid frames of its own clip.

    `nn.TransformerEncoderLayer` computes the same outputs from the same weights (tested), but is slower, draws other initial
    weights and saves other parameter names.
    """

    def __init__(self, width: int, attention_heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = attention_heads, dropout
        self.norm_in, self.norm_mid = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        """Return states `[B, T, W]` of states `[B, T, W]` with mask `[B, T]`."""
        B, T, W = states.shape
        q, k, v = self.qkv(self.norm_in(states)).view(B, T, 3, self.heads, W // self.heads).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None, None, :])
        states = states + F.dropout(self.out(attended.transpose(1, 2).reshape(B, T, W)), self.dropout, self.training)
        inner = F.gelu(self.up(self.norm_mid(states)))
        return states + F.dropout(self.down(inner), self.dropout, self.training)


class ExpertHead(nn.Module):
    """RMSNorm, D → width, interpolation of K tokens to the T frames of the clip, a small transformer, width → d.

    Args:
        spec: spec of the expert.
        normaliser: mean and std `[d]`, registered as buffers so that they are saved with the head.
        hidden_size: D.
        settings: the heads section.

    Raises:
        TrainingError: `attention_heads` does not divide `width`, or the normaliser is not `[d]`.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, spec: ExpertSpec, normaliser: Normaliser, hidden_size: int, settings: HeadSettings) -> None:
        super().__init__()
        if settings.width % settings.attention_heads:
            raise TrainingError(
                "heads.attention_heads must divide heads.width", field="heads.attention_heads", value=settings.attention_heads
            )
        mean, std = (torch.as_tensor(part, dtype=torch.float32).clone() for part in normaliser)
        if mean.shape != (spec.dim,) or std.shape != (spec.dim,):
            raise TrainingError(
                "a normaliser must have one value per dimension",
                field=spec.implementation,
                value=tuple(mean.shape),
                allowed=f"({spec.dim},)",
            )
        self.spec, self.rate_hz, self.max_frames = spec, settings.target_rate_hz, settings.max_frames
        self.norm = nn.RMSNorm(hidden_size, eps=1e-6)
        self.enter = nn.Linear(hidden_size, settings.width)
        self.layers = nn.ModuleList(Layer(settings.width, settings.attention_heads, settings.dropout) for _ in range(settings.layers))
        self.last_norm = nn.LayerNorm(settings.width)
        self.leave = nn.Linear(settings.width, spec.dim)
        self.register_buffer("mean", mean)
        # A constant dimension is not scaled.
        self.register_buffer("std", torch.where(std > 1e-6, std, torch.ones_like(std)))

    @property
    def standardised(self) -> bool:
        """Whether the head predicts standardised dimensions (otherwise logits)."""
        return self.spec.target in ("representation", "regression")

    def forward(self, states: Tensor, durations_s: Sequence[float]) -> tuple[Tensor, Tensor]:
        """Return raw predictions `[B, max T, d]` and mask `[B, max T]` of think states `[B, K, D]` and clip durations."""
        frames = [frame_count(duration, self.rate_hz, self.max_frames) for duration in durations_s]
        hidden, mask = interpolate(self.enter(self.norm(states.to(self.enter.weight.dtype))), frames)
        hidden = hidden + sinusoidal_positions(hidden.shape[1], hidden.shape[2], hidden.device).to(hidden)
        for layer in self.layers:
            hidden = layer(hidden, mask)
        return self.leave(self.last_norm(hidden)), mask

    def pool(self, features: Tensor, mask: Tensor, duration_s: float) -> Target:
        """Return a clip's features pooled to the target rate `[T, d]` and their mask `[T]`, on the device of the features."""
        frames = frame_count(duration_s, self.rate_hz, self.max_frames)
        width = frame_width_s(duration_s, self.rate_hz, self.max_frames)
        features = features.float()
        if self.spec.target == "pitch_bins":
            # Bins are weighted by voicing, so that an unvoiced frame does not change the pitch of a voiced one.
            features = torch.cat([features[:, :-1] * features[:, -1:], features[:, -1:]], dim=1)
        pooled, valid = pool_frames(features, mask, self.spec.native_rate_hz, frames, width)
        if self.spec.target == "pitch_bins":
            total = pooled[:, :-1].sum(dim=1, keepdim=True)
            bins = torch.where(
                total > 0, pooled[:, :-1] / torch.where(total > 0, total, torch.ones_like(total)), torch.zeros_like(pooled[:, :-1])
            )
            pooled = torch.cat([bins, pooled[:, -1:]], dim=1)
        return pooled, valid

    def standardise(self, pooled: Tensor, valid: Tensor) -> Tensor:
        """Return pooled frames `[…, T, d]` in the units that the head predicts, zero where the mask `[…, T]` is False."""
        if self.standardised:
            pooled = (pooled - self.mean) / self.std
        return torch.where(valid[..., None], pooled, torch.zeros_like(pooled))

    def loss(self, states: Tensor, durations_s: Sequence[float], targets: Sequence[Target | None], losses: LossSettings) -> Tensor:
        """Return the sum of clip losses (float32 scalar); clips without a target or a valid frame add an exact zero.

        This method does not synchronise with a GPU: targets are pooled on their own device (the CPU, while the GPU still runs the
        decoder) and copied once for all clips.

        Args:
            states: think states `[B, K, D]`.
            durations_s: duration of each clip.
            targets: features `[T, d]` and mask `[T]` at the native rate, or None.
            losses: the losses section.
        """
        rows = [row for row, target in enumerate(targets) if target is not None]
        if not rows:
            return states[:0].float().sum()
        durations = [durations_s[row] for row in rows]
        prediction, mask = self(states if len(rows) == len(targets) else states[rows], durations)
        clips = [self.pool(*cast(Target, targets[row]), duration) for row, duration in zip(rows, durations, strict=True)]
        target, valid = (
            nn.utils.rnn.pad_sequence(parts, batch_first=True).to(prediction.device, non_blocking=True)
            for parts in ([pooled for pooled, _ in clips], [frames for _, frames in clips])
        )
        return expert_loss(self.spec.target, prediction, self.standardise(target, valid), valid & mask, losses)

    @torch.no_grad()
    def predict(self, states: Tensor, durations_s: Sequence[float]) -> list[Tensor]:
        """Return per clip `[T, d]` (float32) at the target rate, in the expert's units (posteriors as probabilities)."""
        raw, mask = self(states, durations_s)
        raw = raw.float()
        if self.standardised:
            values = raw * self.std + self.mean
        elif self.spec.target == "pitch_bins":
            values = torch.cat([raw[..., :-1].softmax(dim=-1), raw[..., -1:].sigmoid()], dim=-1)
        else:
            values = raw.sigmoid()
        return [clip[valid] for clip, valid in zip(values, mask, strict=True)]


def build_heads(
    specs: Mapping[str, ExpertSpec], normalisers: Mapping[str, Normaliser], hidden_size: int, settings: HeadSettings, seed: int
) -> nn.ModuleDict:
    """Return one head per expert key, each initialised with its own generator ("heads", seed, key).

    Args:
        specs: spec of each expert, by key.
        normalisers: mean and std over the training split, by expert key.
        hidden_size: D of the backbone.
        settings: the heads section.
        seed: seed of the trial.
    """
    heads = nn.ModuleDict()
    for key in sorted(specs):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(make_generator("heads", seed, key).initial_seed())
            heads[key] = ExpertHead(specs[key], normalisers[key], hidden_size, settings)
    return heads


def empty_heads(specs: Mapping[str, ExpertSpec], hidden_size: int, settings: HeadSettings) -> nn.ModuleDict:
    """Return heads into which weights and normalisers are loaded afterwards."""
    blank = {key: (torch.zeros(spec.dim), torch.ones(spec.dim)) for key, spec in specs.items()}
    return build_heads(specs, blank, hidden_size, settings, 0)
