"""The encoders of wav2vec 2.0, HuBERT and WavLM: from windows of waveforms to hidden states.

Frame t belongs to the samples [t · stride, (t + 1) · stride) and hears as much before as behind them: 40 samples (2.5 ms) on each
side as published. Silence stands before and behind the clip, so that the last frame hears the last sample.
Sources: Baevski et al., arXiv:2006.11477; Hsu et al., arXiv:2106.07447; Chen et al., arXiv:2110.13900.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from coat_core.experts.neural.base import Piece, Waveform, stack, stretch_of
from coat_core.experts.neural.checkpoint import Published
from coat_core.experts.neural.clip_norm import ClipNorm, convolution_moments
from coat_core.experts.neural.suppress_warning import Quiet

MODEL_TYPES = ("hubert", "wav2vec2", "wavlm")
_UNUSED = ("masked_spec_embed",)
"""A weight of pre-training, which fine-tuned checkpoints may leave out."""
_QUIET = Quiet("Support for mismatched key_padding_mask")
"""WavLM hands torch a mask and a position bias of two types."""

States = tuple[Tensor, ...]
"""Hidden states `[B, T, D]`: the input of the first layer, then the output of each."""


@dataclass(frozen=True)
class Clip:
    """A whole clip: its samples as the front end gives them, and the moments of the first convolution over time, if it needs them."""

    samples: Waveform
    mean: NDArray[np.float64] | None
    variance: NDArray[np.float64] | None


class Wav2VecEncoder:
    """A stock model, what is read from its hidden states, and the alignment of its frames.

    Args:
        model: `HubertModel`, `Wav2Vec2Model` or `WavLMModel`; the group norm of its first convolution is replaced.
        extractor: its `Wav2Vec2FeatureExtractor`.
        read: from hidden states and the last output `[B, T, D]` to features `[B, T, d]`.
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
        """Return the clip as the checkpoint's front end normalises it, alone."""
        values = self.extractor(waveform, sampling_rate=self.extractor.sampling_rate, return_tensors="np")["input_values"][0]
        samples = np.asarray(values, dtype=np.float32)
        if self.norm is None:
            return Clip(samples, None, None)
        whole = self._signal(samples, 0, -(-len(samples) // self.hop))
        return Clip(samples, *convolution_moments(whole, self.kernel, self.bias, self.stride))

    def samples(self, frames: int) -> int:
        """Return the samples under so many frames."""
        return frames * self.hop

    def encode(self, pieces: Sequence[Piece]) -> list[Tensor]:
        """Return features `[T, d]` of each piece; padding is masked everywhere."""
        signals = [self._signal(piece.clip.samples, piece.start, piece.stop) for piece in pieces]
        weight = self.model.feature_projection.projection.weight
        values = torch.from_numpy(stack(signals)).to(weight.device, weight.dtype)
        heard = torch.arange(values.shape[1])[None] < torch.tensor([len(signal) for signal in signals])[:, None]
        if self.norm is not None:
            moments = (
                torch.from_numpy(np.stack([getattr(piece.clip, moment) for piece in pieces]).astype(np.float32)).to(weight.device)
                for moment in ("mean", "variance")
            )
            self.norm.give(*moments)
        with _QUIET:
            output = self.model(values, attention_mask=heard.long().to(weight.device), output_hidden_states=True)
        features = self.read(output.hidden_states, output.last_hidden_state)
        return [row[: piece.stop - piece.start] for row, piece in zip(features, pieces, strict=True)]

    def _signal(self, samples: Waveform, start: int, stop: int) -> Waveform:
        """Return what frames `start` to `stop` hear."""
        first = start * self.hop - self.before
        return stretch_of(samples, first, first + (stop - start - 1) * self.hop + self.reach)


def load_wav2vec(published: Published, read: Callable[[States, Tensor], Tensor]) -> Wav2VecEncoder:
    """Load the encoder of a checkpoint of any of the three families, whatever head stands on it.

    Raises:
        ExpertError: weights or the front end are missing.
    """
    from transformers import Wav2Vec2FeatureExtractor

    return Wav2VecEncoder(
        published.load(_model_class(published.model_type), may_miss=_UNUSED), published.front_end(Wav2Vec2FeatureExtractor), read
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


def drop_layers(stack: Any, layers: Sequence[int]) -> bool:
    """Cut the layers of a stock stack behind the last that is read (1 = first); say whether there were any."""
    unread = stack.layers[max(layers) :]
    stack.layers = stack.layers[: max(layers)]
    return len(unread) > 0


def layer_mean(layers: Sequence[int]) -> Callable[[States, Tensor], Tensor]:
    """Return the function that takes the mean of hidden layers (1 = first)."""
    return lambda states, last: torch.stack([states[layer].float() for layer in layers]).mean(dim=0)
