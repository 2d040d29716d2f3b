"""The encoders of wav2vec 2.0, HuBERT and WavLM: from windows of waveforms to hidden states.

Frame t belongs to the samples [t · stride, (t + 1) · stride) and depends on a few more samples on each side, 40 (2.5 ms) in the
published models. The clip is padded with silence on both sides, so that the last frame covers the last sample.

The base models normalise the channels of the first convolution over time (`feat_extract_norm: group`). In a padded batch the stock
layer includes the padding, and in a window of a long clip it includes that window only. Here mean and variance are those of the whole
clip, computed from its samples: channel c of the convolution is w_c · x over windows x of the waveform, so its mean is w_c · E[x] and its
variance w_c' Cov[x] w_c. Features of a clip are therefore the same in a batch, alone and in windows.
Sources: Baevski et al., arXiv:2006.11477; Hsu et al., arXiv:2106.07447; Chen et al., arXiv:2110.13900.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from coat_core.experts.neural.base import Piece, Waveform, cut_padded, pad_signals
from coat_core.experts.neural.checkpoint import Checkpoint
from coat_core.experts.neural.suppress_warning import suppress_warning

MODEL_TYPES = ("hubert", "wav2vec2", "wavlm")
_UNUSED = ("masked_spec_embed",)
"""A weight of pre-training, which fine-tuned checkpoints may leave out."""
_MASK_WARNING = suppress_warning("Support for mismatched key_padding_mask")
"""WavLM passes torch a mask and a position bias of different types."""
_BLOCK = 1 << 18
"""Windows of the first convolution in one block of `convolution_moments`."""
_NEXT = threading.local()
"""Moments for each thread's next forward; a model has one `ClipNorm`."""

States = tuple[Tensor, ...]
"""Hidden states `[B, T, D]`: the input of the first layer, then the output of each."""


@dataclass(frozen=True)
class Clip:
    """A whole clip: the samples from the front end and, if they are normalised, the moments of the first convolution over time."""

    samples: Waveform
    mean: NDArray[np.float64] | None
    variance: NDArray[np.float64] | None


class ClipNorm(nn.Module):
    """A `GroupNorm` with one channel per group; mean and variance are set before every forward, separately in each thread."""

    def __init__(self, stock: nn.GroupNorm) -> None:
        super().__init__()
        self.weight, self.bias, self.eps = stock.weight, stock.bias, stock.eps

    def set_moments(self, mean: Tensor, variance: Tensor) -> None:
        """Set mean and variance `[B, C]` for this thread's next forward."""
        _NEXT.moments = mean, variance

    def forward(self, states: Tensor) -> Tensor:
        """Return states `[B, C, T]`, normalised, scaled and shifted."""
        moments: tuple[Tensor, Tensor] = _NEXT.moments
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


class Wav2VecEncoder:
    """A stock model with aligned frames and a function of its hidden states.

    Args:
        model: `HubertModel`, `Wav2Vec2Model` or `WavLMModel`; the group norm of its first convolution is replaced.
        extractor: its `Wav2Vec2FeatureExtractor`.
        read: maps hidden states and the last output `[B, T, D]` to features `[B, T, d]`.
    """

    def __init__(self, model: Any, extractor: Any, read: Callable[[States, Tensor], Tensor]) -> None:
        self.model, self.extractor, self.read = model, extractor, read
        kernels, strides = list(model.config.conv_kernel), list(model.config.conv_stride)
        self.hop: int = prod(strides)
        self.reach = 1 + sum((kernel - 1) * prod(strides[:layer]) for layer, kernel in enumerate(kernels))
        self.before = (self.reach - self.hop) // 2
        first = model.feature_extractor.conv_layers[0]
        self.norm: ClipNorm | None = None
        if model.config.feat_extract_norm == "group":
            self.norm = ClipNorm(first.layer_norm)
            first.layer_norm = self.norm
            self.kernel = first.conv.weight[:, 0].double().cpu().numpy()
            self.bias = None if first.conv.bias is None else first.conv.bias.double().cpu().numpy()
            self.stride = int(strides[0])

    def prepare(self, waveform: Waveform) -> Clip:
        """Return the clip, normalised by the checkpoint's front end without other clips."""
        values = self.extractor(waveform, sampling_rate=self.extractor.sampling_rate, return_tensors="np")["input_values"][0]
        samples = np.asarray(values, dtype=np.float32)
        if self.norm is None:
            return Clip(samples, None, None)
        whole = self._signal(samples, 0, -(-len(samples) // self.hop))
        return Clip(samples, *convolution_moments(whole, self.kernel, self.bias, self.stride))

    def samples(self, frames: int) -> int:
        """Return the number of samples of `frames` frames."""
        return frames * self.hop

    def encode(self, pieces: Sequence[Piece]) -> list[Tensor]:
        """Return features `[T, d]` of each piece; padding is masked everywhere."""
        signals = [self._signal(piece.clip.samples, piece.start, piece.stop) for piece in pieces]
        weight = self.model.feature_projection.projection.weight
        values = torch.from_numpy(pad_signals(signals)).to(weight.device, weight.dtype)
        mask = torch.arange(values.shape[1])[None] < torch.tensor([len(signal) for signal in signals])[:, None]
        if self.norm is not None:
            moments = (
                torch.from_numpy(np.stack([getattr(piece.clip, moment) for piece in pieces]).astype(np.float32)).to(weight.device)
                for moment in ("mean", "variance")
            )
            self.norm.set_moments(*moments)
        with _MASK_WARNING:
            output = self.model(values, attention_mask=mask.long().to(weight.device), output_hidden_states=True)
        features = self.read(output.hidden_states, output.last_hidden_state)
        return [row[: piece.stop - piece.start] for row, piece in zip(features, pieces, strict=True)]

    def _signal(self, samples: Waveform, start: int, stop: int) -> Waveform:
        """Return the samples that frames `start` to `stop` depend on."""
        first = start * self.hop - self.before
        return cut_padded(samples, first, first + (stop - start - 1) * self.hop + self.reach)


def load_wav2vec(checkpoint: Checkpoint, read: Callable[[States, Tensor], Tensor]) -> Wav2VecEncoder:
    """Load the encoder of a checkpoint of any of the three families, with any head or none.

    Raises:
        ExpertError: weights or the front end are missing.
    """
    from transformers import Wav2Vec2FeatureExtractor

    return Wav2VecEncoder(
        checkpoint.load(_model_class(checkpoint.model_type), may_miss=_UNUSED), checkpoint.front_end(Wav2Vec2FeatureExtractor), read
    )


def _model_class(model_type: str) -> Any:
    if model_type == "hubert":
        from transformers import HubertModel

        return HubertModel
    if model_type == "wavlm":
        from transformers import WavLMModel

        return WavLMModel
    from transformers import Wav2Vec2Model

    return Wav2Vec2Model


def drop_layers(encoder: Any, layers: Sequence[int]) -> bool:
    """Drop the layers of a stock encoder after the last of `layers` (1 = first); return whether any layer was dropped."""
    unused = encoder.layers[max(layers) :]
    encoder.layers = encoder.layers[: max(layers)]
    return len(unused) > 0


def layer_mean(layers: Sequence[int]) -> Callable[[States, Tensor], Tensor]:
    """Return a function that computes the mean of hidden layers (1 = first)."""
    return lambda states, last: torch.stack([states[layer].float() for layer in layers]).mean(dim=0)
