"""AST's front end for many short windows at once: the stock `ASTFeatureExtractor`'s numbers, without its loop over frames.

The stock extractor transforms frame by frame in Python, which costs more than a small model. Here every frame of all windows goes
through one transform, with the same steps and roundings (Kaldi's filter bank: mean removed, pre-emphasis 0.97, Hann window of 400
samples every 160, 512-point spectrum in single precision). Where torchaudio is installed the stock extractor uses that, and so do we.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

_FRAME, _HOP, _FFT = 400, 160, 512
_BLOCK = 256
"""Frames that are worked on at once, so that they stay in the processor's cache."""
_PREEMPHASIS, _FLOOR = 0.97, 1.192092955078125e-07


class AstFrontEnd:
    """What `extractor(windows)["input_values"]` returns, faster.

    Args:
        extractor: a stock `ASTFeatureExtractor`.
    """

    def __init__(self, extractor: Any) -> None:
        self.extractor = extractor
        self.stock = not hasattr(extractor, "mel_filters")

    def __call__(self, windows: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
        """Return features `[B, max_length, mels]` of windows `[n]`, n ≥ 400, filled up or cut to the model's input."""
        stock = self.extractor
        if self.stock:
            return np.asarray(stock(windows, sampling_rate=stock.sampling_rate, return_tensors="np")["input_values"], dtype=np.float32)
        frames = [np.lib.stride_tricks.sliding_window_view(window.astype(np.float64), _FRAME)[::_HOP] for window in windows]
        bands = np.split(self._bands(np.concatenate(frames)), np.cumsum([len(part) for part in frames])[:-1])
        features = np.zeros((len(windows), stock.max_length, stock.num_mel_bins), dtype=np.float32)
        for row, part in zip(features, bands, strict=True):
            row[: len(part)] = part[: stock.max_length]
        return np.asarray(stock.normalize(features), dtype=np.float32) if stock.do_normalize else features

    def _bands(self, frames: NDArray[np.float64]) -> NDArray[np.float32]:
        """Return log mel bands `[F, mels]` of frames `[F, 400]`, which are used up."""
        found = np.empty((len(frames), self.extractor.num_mel_bins), dtype=np.float32)
        for start in range(0, len(frames), _BLOCK):
            block = frames[start : start + _BLOCK]
            block -= block.mean(axis=1, keepdims=True)
            emphasised = np.empty_like(block)
            np.multiply(block[:, :-1], -_PREEMPHASIS, out=emphasised[:, 1:])
            emphasised[:, 1:] += block[:, 1:]
            np.multiply(block[:, 0], 1 - _PREEMPHASIS, out=emphasised[:, 0])
            emphasised *= self.extractor.window
            spectrum = np.fft.rfft(emphasised, _FFT, axis=1).astype(np.complex64)
            power = np.abs(spectrum).astype(np.float64) ** 2
            found[start : start + _BLOCK] = np.log(np.maximum(_FLOOR, power @ self.extractor.mel_filters))
        return found
