"""Projection heads: one small transformer per expert, from think states to the expert's frames."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from coat_core.errors import TrainingError
from coat_core.experts.base import ExpertSpec
from coat_core.seeding import make_generator
from coat_core.settings import HeadSettings, LossSettings
from coat_core.thinking.head_layers import Layer, TimeAttention
from coat_core.thinking.losses import Target, expert_loss
from coat_core.thinking.resampling import frame_count, frame_mask, frame_width_s, interpolate, pool_frames, sinusoidal_positions

Normaliser = tuple[Tensor, Tensor]
"""Mean and standard deviation `[d]` of an expert's features over the training split."""


class ExpertHead(nn.Module):
    """RMSNorm, D → width, S states to the T frames of the clip, a small transformer, width → d.

    `heads.time` selects how the frames read the states, which are those of the think tokens or of the audio positions: by
    cross-attention from the frame's time, or by linear interpolation.

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
    constant: Tensor
    """Loss of the best constant prediction on training clips (see `fit_constants`), float32; 0: not fitted."""

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
        self.time = TimeAttention(settings.width, settings.attention_heads) if settings.time == "cross_attention" else None
        self.register_buffer("mean", mean)
        # A constant dimension is not scaled.
        self.register_buffer("std", torch.where(std > 1e-6, std, torch.ones_like(std)))
        self.register_buffer("constant", torch.zeros(()))

    @property
    def standardised(self) -> bool:
        """Whether the head predicts standardised dimensions (otherwise logits)."""
        return self.spec.target in ("representation", "regression")

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        # Releases written before this buffer existed do not contain it.
        state_dict.setdefault(f"{prefix}constant", torch.zeros(()))
        super()._load_from_state_dict(state_dict, prefix, *args)

    def forward(self, states: Tensor, durations_s: Sequence[float], state_mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return raw predictions `[B, max T, d]` and their mask `[B, max T]`.

        Args:
            states: `[B, S, D]`.
            durations_s: duration of each clip.
            state_mask: `[B, S]`, True on a row's states, which precede its padding; None: all are valid.
        """
        frames = [frame_count(duration, self.rate_hz, self.max_frames) for duration in durations_s]
        if state_mask is not None:
            # Padding may hold any value, also NaN.
            states = torch.where(state_mask[..., None], states, torch.zeros_like(states))
        hidden = self.enter(self.norm(states.to(self.enter.weight.dtype)))
        if self.time is None:
            hidden, mask = interpolate(hidden, frames, None if state_mask is None else state_mask.sum(dim=1))
            hidden = hidden + sinusoidal_positions(hidden.shape[1], hidden.shape[2], hidden.device).to(hidden)
        else:
            mask = frame_mask(frames, hidden.device)
            valid = torch.ones(hidden.shape[:2], dtype=torch.bool, device=hidden.device) if state_mask is None else state_mask
            seconds = torch.tensor(list(durations_s), dtype=torch.float32, device=hidden.device)
            hidden = self.time(hidden, valid, mask.sum(dim=1), seconds, mask.shape[1])
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
            pooled = (pooled - self.mean.to(pooled.device)) / self.std.to(pooled.device)
        return torch.where(valid[..., None], pooled, torch.zeros_like(pooled))

    def divisor(self, losses: LossSettings) -> Tensor | float:
        """Return what a clip's loss is divided by: the constant predictor's loss with `losses.balance: constant`, else 1."""
        return torch.where(self.constant > 0, self.constant, torch.ones_like(self.constant)) if losses.balance == "constant" else 1.0

    def loss(
        self,
        states: Tensor,
        durations_s: Sequence[float],
        targets: Sequence[Target | None],
        losses: LossSettings,
        state_mask: Tensor | None = None,
    ) -> Tensor:
        """Return the sum of clip losses (float32 scalar); clips without a target or a valid frame add an exact zero.

        With `losses.balance: constant`, each is divided by the loss of the constant predictor. This method does not synchronise with a
        GPU: targets are pooled on their own device (the CPU, while the GPU still runs the decoder) and copied once for all clips.

        Args:
            states: think states `[B, K, D]`, or states at the audio positions `[B, S, D]`.
            durations_s: duration of each clip.
            targets: features `[T, d]` and mask `[T]` at the native rate, or None.
            losses: the losses section.
            state_mask: `[B, S]`, True on a row's states, which precede its padding; None: all are valid.
        """
        rows = [row for row, target in enumerate(targets) if target is not None]
        if not rows:
            return states[:0].float().sum()
        durations = [durations_s[row] for row in rows]
        if len(rows) < len(targets):
            states, state_mask = states[rows], None if state_mask is None else state_mask[rows]
        prediction, mask = self(states, durations, state_mask)
        target, valid = self.targets(durations, [cast(Target, targets[row]) for row in rows], prediction.device)
        return expert_loss(self.spec.target, prediction, target, valid & mask, losses) / self.divisor(losses)

    def targets(self, durations_s: Sequence[float], clips: Sequence[Target], device: torch.device) -> Target:
        """Return the pooled, standardised targets `[B, max T, d]` of clips at the native rate, and their mask `[B, max T]`."""
        pooled = [self.pool(features, mask, duration) for (features, mask), duration in zip(clips, durations_s, strict=True)]
        target, valid = (
            nn.utils.rnn.pad_sequence(parts, batch_first=True).to(device, non_blocking=True)
            for parts in ([frames for frames, _ in pooled], [mask for _, mask in pooled])
        )
        return self.standardise(target, valid), valid

    @torch.no_grad()
    def predict(self, states: Tensor, durations_s: Sequence[float], state_mask: Tensor | None = None) -> list[Tensor]:
        """Return per clip `[T, d]` (float32) at the target rate, in the expert's units (posteriors as probabilities)."""
        raw, mask = self(states, durations_s, state_mask)
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
