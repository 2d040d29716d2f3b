"""Layers of a projection head: a transformer encoder layer over frames, and cross-attention from frames to states."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from coat_core.thinking.resampling import time_features

GAIN = 1.5
"""Initial scale of queries and keys: the larger, the fewer states a frame attends to."""


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


class TimeAttention(nn.Module):
    """Cross-attention from the times of the T frames of a clip to its S states (Attention Is All You Need, arXiv 1706.03762).

    A query is a linear function of the frame's time. A key is the sum of one of the state's place, with state s at (s + ½) / S of the
    clip, and one of the state; the values are the states themselves. The first two start as the same multiple of the identity and the
    third as zero: at first, a frame attends to the states near its own time.
    """

    def __init__(self, width: int, attention_heads: int) -> None:
        super().__init__()
        self.heads = attention_heads
        self.query, self.place, self.content = nn.Linear(width, width), nn.Linear(width, width), nn.Linear(width, width, bias=False)
        with torch.no_grad():
            for linear in (self.query, self.place):
                linear.weight.copy_(GAIN * torch.eye(width))
                linear.bias.zero_()
            self.content.weight.zero_()

    def forward(self, states: Tensor, mask: Tensor, frames: Tensor, durations_s: Tensor, longest: int) -> Tensor:
        """Return `[B, T, W]` for T = `longest` frames of each clip.

        Args:
            states: `[B, S, W]`, finite.
            mask: `[B, S]`, True on a row's states, which precede its padding.
            frames: number of frames of each clip `[B]`; later frames get finite values without a meaning.
            durations_s: duration of each clip `[B]`.
            longest: T.
        """
        times = time_features(frames, durations_s, longest, states.shape[2]).to(states.dtype)
        places = time_features(mask.sum(dim=1), durations_s, states.shape[1], states.shape[2]).to(states.dtype)
        q, k, v = (
            part.unflatten(2, (self.heads, -1)).transpose(1, 2)
            for part in (self.query(times), self.place(places) + self.content(states), states)
        )
        # A row without a state attends to its padding, which is zero: without a key, the softmax would be NaN.
        allowed = mask | ~mask.any(dim=1, keepdim=True)
        read = F.scaled_dot_product_attention(q, k, v.to(q.dtype), attn_mask=allowed[:, None, None, :])
        return read.transpose(1, 2).flatten(2) + times
