"""What all neural experts share: windows of long clips, batches by seconds of audio, and the stitching of frames."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from coat_core.experts.base import ExpertSpec, check_batch
from coat_core.experts.neural.windowing import Span, Windowing
from coat_core.experts.prefetch import go_on

Waveform = NDArray[np.float32]


@dataclass(frozen=True)
class Piece:
    """A window of a clip: frames `start` to `stop` (exclusive) of what `Encoder.prepare` returned for the whole clip."""

    clip: Any
    start: int
    stop: int


class Encoder(Protocol):
    """A published model as a function from windows to frames; frame t belongs to the samples [t · hop, (t + 1) · hop)."""

    hop: int
    """Samples a frame."""

    def prepare(self, waveform: Waveform) -> Any:
        """Return what is known of a whole clip `[N]` before it is cut (normalised samples, statistics over time)."""

    def samples(self, frames: int) -> int:
        """Return the samples of audio that the model computes for a window of so many frames."""

    def encode(self, pieces: Sequence[Piece]) -> list[Tensor]:
        """Return features `[stop - start, d]` of each piece, none of which depends on the others."""


@dataclass(frozen=True)
class NeuralExpert:
    """An expert that runs a published model.

    A clip of N samples has T = ceil(N / hop) frames, all valid: the model hears silence behind the clip, so that the last frame
    hears its last sample. Frames of a clip do not depend on padding or on the other clips, but for float32 rounding.
    """

    spec: ExpertSpec
    encoder: Encoder
    windowing: Windowing
    batch_seconds: float
    """Most seconds of audio, padding included, in one forward pass; one window always goes through."""
    device: str = "cpu"

    def __call__(self, waveforms: Waveform, lengths: NDArray[np.int64]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Return features `[B, T, d]` (float32) and mask `[B, T]`, T = ceil(longest / hop).

        Raises:
            ExpertError: the shapes do not fit together, or a length is below 1 or beyond the waveform.
        """
        check_batch(waveforms, lengths)
        frames = [-(-int(length) // self.encoder.hop) for length in lengths]
        features = np.zeros((len(frames), max(frames, default=0), self.spec.dim), dtype=np.float32)
        mask = np.arange(features.shape[1])[None] < np.array(frames, dtype=np.int64)[:, None]
        with exact(self.device):
            clips = [self.encoder.prepare(row[:length]) for row, length in zip(waveforms, lengths, strict=True)]
            cut = [(row, span) for row, total in enumerate(frames) for span in self.windowing.spans(total)]
            for batch in self._batches(cut):
                go_on()
                states = self.encoder.encode([Piece(clips[row], span.start, span.stop) for row, span in batch])
                for (row, span), state in zip(batch, states, strict=True):
                    kept = state[span.keep_from - span.start : span.keep_to - span.start]
                    features[row, span.keep_from : span.keep_to] = kept.float().cpu().numpy()
        return features, mask

    def _batches(self, cut: Sequence[tuple[int, Span]]) -> Iterator[list[tuple[int, Span]]]:
        """Group windows of like length, longest first, so that little is padded."""
        batch: list[tuple[int, Span]] = []
        longest = 0
        for row, span in sorted(cut, key=lambda part: -(part[1].stop - part[1].start)):
            if not batch:
                longest = self.encoder.samples(span.stop - span.start)
            elif (len(batch) + 1) * longest > self.batch_seconds * self.spec.sample_rate_hz:
                yield batch
                batch, longest = [], self.encoder.samples(span.stop - span.start)
            batch.append((row, span))
        if batch:
            yield batch


@contextmanager
def exact(device: str) -> Iterator[None]:
    """Compute without gradients, and convolve in the precision that was asked for (cuDNN's default is TF32).

    On a processor several threads may be inside; cuDNN's settings are the whole process's, and are left alone there.
    """
    cudnn = torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False)
    with torch.inference_mode(), nullcontext() if device == "cpu" else cudnn:
        yield


def stack(signals: Sequence[Waveform]) -> NDArray[np.float32]:
    """Return signals `[n]` as rows `[B, longest]`, zero behind each."""
    rows = np.zeros((len(signals), max(len(signal) for signal in signals)), dtype=np.float32)
    for row, signal in zip(rows, signals, strict=True):
        row[: len(signal)] = signal
    return rows


def stretch_of(waveform: Waveform, start: int, stop: int) -> Waveform:
    """Return samples `start` to `stop` of a clip, zero where they lie outside of it."""
    signal = np.zeros(stop - start, dtype=np.float32)
    first, last = max(start, 0), min(stop, len(waveform))
    if first < last:
        signal[first - start : last - start] = waveform[first:last]
    return signal
