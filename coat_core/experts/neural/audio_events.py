"""Events expert: AudioSet posteriors of the Audio Spectrogram Transformer in short, overlapping windows.

AST returns one output for a clip of 10.24 s. Here each frame is a window of 1 s, one every 0.5 s: frame t is centred on 0.5 t seconds,
so a sound changes only the frames whose windows contain it. Each window passes through the stock front end, which pads it to 10.24 s
as it pads the short clips of the model's training. Posteriors of one second are lower than those of ten; they are not rescaled.
Source: Gong, Chung and Glass, "AST: Audio Spectrogram Transformer", arXiv:2104.01778.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from coat_core.experts.neural.base import NeuralExpert, Piece, Waveform, cut_padded
from coat_core.experts.neural.checkpoint import open_checkpoint
from coat_core.experts.neural.licences import KnownCheckpoint
from coat_core.experts.neural.windowing import Windowing
from coat_core.settings import ExpertSettings

KNOWN = (
    KnownCheckpoint("MIT/ast-finetuned-audioset-10-10-0.4593", "f826b80d28226b62986cc218e5cec390b1096902", "BSD-3-Clause",
          "AudioSet with its labels (527 classes)", "Gong, Chung and Glass, AST, arXiv:2104.01778"),
)  # fmt: skip
"""Known checkpoints, the default first."""
WINDOW_S, HOP_S = 1.0, 0.5
_BEFORE, _AFTER = 200, 360
"""Samples of silence before and after a clip: the spectrum's frames (400 samples, every 160) are weighted with a Hann window, so
that without the silence a click on the first or the last sample would have the weight 0."""
_FRAME, _HOP, _FFT = 400, 160, 512
_BLOCK = 256
"""Frames in one transform, so that they stay in the processor's cache."""
_PREEMPHASIS, _FLOOR = 0.97, 1.192092955078125e-07


class AstFrontEnd:
    """A vectorised `ASTFeatureExtractor` for many short windows.

    The stock extractor transforms frame by frame in Python, which costs more than a small model. Here the frames of all windows are
    transformed together, with the same steps and roundings (Kaldi's filter bank: mean removed, pre-emphasis 0.97, Hann window of 400
    samples every 160, 512-point spectrum in single precision). If torchaudio is installed, the stock extractor uses torchaudio; it is
    called directly then.

    Args:
        extractor: a stock `ASTFeatureExtractor`.
    """

    def __init__(self, extractor: Any) -> None:
        self.extractor = extractor
        self.has_torchaudio = not hasattr(extractor, "mel_filters")

    def __call__(self, windows: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
        """Return features `[B, max_length, mels]` of windows `[n]`, n ≥ 400, padded or cut to the model's input."""
        stock = self.extractor
        if self.has_torchaudio:
            return np.asarray(stock(windows, sampling_rate=stock.sampling_rate, return_tensors="np")["input_values"], dtype=np.float32)
        frames = [np.lib.stride_tricks.sliding_window_view(window.astype(np.float64), _FRAME)[::_HOP] for window in windows]
        bands = np.split(self._bands(np.concatenate(frames)), np.cumsum([len(part) for part in frames])[:-1])
        features = np.zeros((len(windows), stock.max_length, stock.num_mel_bins), dtype=np.float32)
        for row, part in zip(features, bands, strict=True):
            row[: len(part)] = part[: stock.max_length]
        return np.asarray(stock.normalize(features), dtype=np.float32) if stock.do_normalize else features

    def _bands(self, frames: NDArray[np.float64]) -> NDArray[np.float32]:
        """Return log mel bands `[F, mels]` of frames `[F, 400]`; the frames are overwritten."""
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


class AstWindows:
    """AST over one-second windows, one window per frame."""

    def __init__(self, model: Any, extractor: Any) -> None:
        self.model, self.extractor, self.front_end = model, extractor, AstFrontEnd(extractor)
        self.rate = int(extractor.sampling_rate)
        self.hop, self.window = round(HOP_S * self.rate), round(WINDOW_S * self.rate)

    def prepare(self, waveform: Waveform) -> Waveform:
        """Return the clip unchanged."""
        return waveform

    def samples(self, frames: int) -> int:
        """Return the number of samples that the model processes: its whole input for each window."""
        return frames * int(self.extractor.max_length) * 160

    def encode(self, pieces: Sequence[Piece]) -> list[Tensor]:
        """Return posteriors `[T, classes]` of each piece."""
        counts = [piece.stop - piece.start for piece in pieces]
        windows = [self._window(piece.clip, frame) for piece in pieces for frame in range(piece.start, piece.stop)]
        weight = self.model.audio_spectrogram_transformer.embeddings.cls_token
        logits = self.model(torch.as_tensor(self.front_end(windows)).to(weight.device, weight.dtype)).logits
        return list(logits.float().sigmoid().split(counts))

    def _window(self, waveform: Waveform, frame: int) -> Waveform:
        start = max(frame * self.hop - self.window // 2, -_BEFORE)
        stop = frame * self.hop + self.window // 2
        last = (frame + 1) * self.hop >= len(waveform)
        return cut_padded(waveform, start, len(waveform) + _AFTER if last else stop)


def build(settings: ExpertSettings) -> NeuralExpert:
    """Return the expert `audio_events`.

    Raises:
        ExpertError: licence, architecture, weights or front end are invalid.
        CheckpointError: the checkpoint is not on this disk and cannot be downloaded.
    """
    from transformers import ASTFeatureExtractor, ASTForAudioClassification

    checkpoint = open_checkpoint("audio_events", settings, KNOWN, ("audio-spectrogram-transformer",))
    model = checkpoint.load(ASTForAudioClassification)
    with warnings.catch_warnings():
        # Some of the lowest of the 128 bands contain none of the 257 bins, as in the training of the model.
        warnings.filterwarnings("ignore", message="At least one mel filter has all zero values")
        extractor = checkpoint.front_end(ASTFeatureExtractor)
    if extractor.max_length != model.config.max_length or extractor.num_mel_bins != model.config.num_mel_bins:
        raise checkpoint.refuse("its front end and its model do not match", f"{extractor.max_length} × {extractor.num_mel_bins}",
                               f"{model.config.max_length} × {model.config.num_mel_bins} (frames × mel bands)")  # fmt: skip
    labels = [str(model.config.id2label[label]) for label in range(model.config.num_labels)]
    names = tuple(name if labels.count(name) == 1 else f"{name} ({label})" for label, name in enumerate(labels))
    encoder = AstWindows(model, extractor)
    spec = checkpoint.spec("events", "posteriors", rate_hz=1 / HOP_S, sample_rate_hz=encoder.rate, dim_names=names)
    return NeuralExpert(spec, encoder, Windowing(frames=1, context=0), settings.seconds_per_batch(encoder.rate), settings.device)
