"""Normalisation over time with statistics of a clip's own samples.

The base models of wav2vec 2.0, HuBERT and WavLM normalise the first convolution's channels over time (`feat_extract_norm:
group`). In a padded batch the stock layer counts the padding in, and in a window of a long clip only that window. Here mean and
variance come from the whole clip, worked out from its samples: channel c of the convolution is w_c · x over windows x of the
waveform, so its mean is w_c · E[x] and its variance w_c' Cov[x] w_c. Batched, alone and in windows a clip is thus the same.
"""

from __future__ import annotations

import threading

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

_BLOCK = 1 << 18
"""Windows that are held at once."""
_GIVEN = threading.local()
"""Moments of a thread's next forward; a model has one such layer."""


class ClipNorm(nn.Module):
    """A `GroupNorm` with one channel a group whose mean and variance are given before every forward, in each thread for itself."""

    def __init__(self, stock: nn.GroupNorm) -> None:
        super().__init__()
        self.weight, self.bias, self.eps = stock.weight, stock.bias, stock.eps

    def give(self, mean: Tensor, variance: Tensor) -> None:
        """Set mean and variance `[B, C]` of this thread's next forward."""
        _GIVEN.moments = mean, variance

    def forward(self, states: Tensor) -> Tensor:
        """Return states `[B, C, T]`, normalised, scaled and shifted."""
        moments: tuple[Tensor, Tensor] = _GIVEN.moments
        mean, variance = moments
        scale = self.weight.float() / (variance + self.eps).sqrt()
        shift = self.bias.float() - mean * scale
        return torch.addcmul(shift[..., None], states.float(), scale[..., None]).to(states.dtype)


def convolution_moments(
    signal: NDArray[np.float32], kernel: NDArray[np.float64], bias: NDArray[np.float64] | None, stride: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return mean and variance over time `[C]` of a strided convolution of a signal `[N]` with kernels `[C, K]`."""
    windows = np.lib.stride_tricks.sliding_window_view(signal, kernel.shape[1])[::stride]
    blocks = [windows[start : start + _BLOCK] for start in range(0, len(windows), _BLOCK)]
    mean = sum(block.sum(axis=0, dtype=np.float64) for block in blocks) / len(windows)
    covariance = np.zeros((kernel.shape[1], kernel.shape[1]))
    for block in blocks:
        centred = block - mean
        covariance += centred.T @ centred / len(windows)
    variance = np.einsum("ck,kl,cl->c", kernel, covariance, kernel)
    return kernel @ mean + (0.0 if bias is None else bias), np.maximum(variance, 0.0)
