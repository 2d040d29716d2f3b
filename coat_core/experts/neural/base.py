"""Base of neural experts: windows of long clips, batches by seconds of audio, and the concatenation of frames."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from coat_core.batching import padded_batches
from coat_core.experts.base import ExpertSpec, check_batch
from coat_core.experts.neural.windowing import Span, Windowing
from coat_core.experts.prefetch import check_cancelled

Waveform = NDArray[np.float32]


@dataclass(frozen=True)
class Piece:
    """A window of a clip: frames `start` to `stop` (exclusive) of the whole clip as `Encoder.prepare` returned it."""

    clip: Any
    start: int
    stop: int


class Encoder(Protocol):
    """A published model as a function from windows to frames; frame t covers the samples [t · hop, (t + 1) · hop)."""

    hop: int
    """Samples per frame."""

    def prepare(self, waveform: Waveform) -> Any:
        """Return the data of a whole clip `[N]` that its windows need (normalised samples, statistics over time)."""

    def samples(self, frames: int) -> int:
        """Return the number of samples that the model processes for a window of `frames` frames."""

    def encode(self, pieces: Sequence[Piece]) -> list[Tensor]:
        """Return features `[stop - start, d]` of each piece; they do not depend on the other pieces."""


@dataclass(frozen=True)
class NeuralExpert:
    """An expert that runs a published model.

    A clip of N samples has T = ceil(N / hop) frames, all valid: the clip is padded with silence at its end, so that the last frame
    covers its last sample. Frames of a clip do not depend on padding or on other clips, except for float32 rounding.
    """

    spec: ExpertSpec
    encoder: Encoder
    windowing: Windowing
    batch_seconds: float
    """Most seconds of audio, padding included, in one forward pass; a longer window forms a separate batch."""
    device: str = "cpu"

    def __call__(self, waveforms: Waveform, lengths: NDArray[np.int64]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Return features `[B, T, d]` (float32) and mask `[B, T]`, T = ceil(longest / hop).

        Raises:
            ExpertError: the shapes do not match, or a length is less than 1 or greater than N.
        """
        check_batch(waveforms, lengths)
        frames = [-(-int(length) // self.encoder.hop) for length in lengths]
        features = np.zeros((len(frames), max(frames, default=0), self.spec.dim), dtype=np.float32)
        mask = np.arange(features.shape[1])[None] < np.array(frames, dtype=np.int64)[:, None]
        with inference(self.device):
            clips = [self.encoder.prepare(row[:length]) for row, length in zip(waveforms, lengths, strict=True)]
            cut = [(row, span) for row, total in enumerate(frames) for span in self.windowing.spans(total)]
            for batch in self._batches(cut):
                check_cancelled()
                states = self.encoder.encode([Piece(clips[row], span.start, span.stop) for row, span in batch])
                for (row, span), state in zip(batch, states, strict=True):
                    kept = state[span.keep_from - span.start : span.keep_to - span.start]
                    features[row, span.keep_from : span.keep_to] = kept.float().cpu().numpy()
        return features, mask

    def _batches(self, cut: Sequence[tuple[int, Span]]) -> list[tuple[tuple[int, Span], ...]]:
        """Return batches of windows of similar length, longest first, which keeps the padding small."""
        ordered = sorted(cut, key=lambda part: -(part[1].stop - part[1].start))
        limit = self.batch_seconds * self.spec.sample_rate_hz
        return padded_batches(ordered, lambda part: self.encoder.samples(part[1].stop - part[1].start), limit)


@contextmanager
def inference(device: str) -> Iterator[None]:
    """Disable gradients and, on an accelerator, TF32 convolutions (cuDNN's default), so that the data type of params is used.

    cuDNN's settings are global to the process. On a CPU several threads may be inside at once, so they are not changed there.
    """
    cudnn = torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False)
    with torch.inference_mode(), nullcontext() if device == "cpu" else cudnn:
        yield


def pad_signals(signals: Sequence[Waveform]) -> NDArray[np.float32]:
    """Return signals `[n]` as one array `[B, longest]`, zero-padded at the end."""
    rows = np.zeros((len(signals), max(len(signal) for signal in signals)), dtype=np.float32)
    for row, signal in zip(rows, signals, strict=True):
        row[: len(signal)] = signal
    return rows


def cut_padded(waveform: Waveform, start: int, stop: int) -> Waveform:
    """Return samples `start` to `stop` of a clip, zero outside the clip."""
    signal = np.zeros(stop - start, dtype=np.float32)
    first, last = max(start, 0), min(stop, len(waveform))
    if first < last:
        signal[first - start : last - start] = waveform[first:last]
    return signal
