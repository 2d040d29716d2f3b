"""Framing and spectra of the acoustic experts: 16 kHz, 50 frames a second, frame t centred on sample 320 t."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from coat_core.experts.base import ExpertSpec, Kind, Target, check_batch

SAMPLE_RATE_HZ = 16000
HOP = 320
FRAME_RATE_HZ = SAMPLE_RATE_HZ / HOP
FFT_SIZE = 512
"""32 ms: long enough to separate the harmonics of most voices, short enough that neighbouring frames overlap little."""
POWER_FLOOR = 1e-8
"""80 dB below a full-scale sine. Lower levels count as silence, so that digital zero is not an outlier."""

Floats = NDArray[np.float64]


def frame_count(samples: int, hop: int = HOP) -> int:
    """Return the number of frames whose centre is within the clip: ceil(samples / hop)."""
    return -(-samples // hop)


def frame(waveform: Floats, size: int) -> Floats:
    """Cut a waveform `[N]` into centred, zero-padded frames `[ceil(N / 320), size]` (a read-only view)."""
    padded = np.zeros(size // 2 + len(waveform) + size)
    padded[size // 2 : size // 2 + len(waveform)] = waveform
    return np.lib.stride_tricks.sliding_window_view(padded, size)[::HOP][: frame_count(len(waveform))]


@cache
def hann(size: int) -> Floats:
    """Return the periodic Hann window `[size]`."""
    from scipy.signal.windows import hann as window

    return np.asarray(window(size, sym=False), dtype=np.float64)


def power_spectrum(waveform: Floats) -> Floats:
    """Return the power spectrum `[T, 257]` (31.25 Hz a bin); a full-scale sine has 1 at its bin."""
    from scipy.fft import rfft

    window = hann(FFT_SIZE)
    spectrum = rfft(frame(waveform, FFT_SIZE) * window, axis=1) * (2.0 / window.sum())
    return np.asarray(spectrum.real**2 + spectrum.imag**2)


def bin_frequencies_hz() -> Floats:
    """Return the centre frequency of each bin of `power_spectrum`, `[257]`."""
    return np.arange(FFT_SIZE // 2 + 1, dtype=np.float64) * (SAMPLE_RATE_HZ / FFT_SIZE)


@cache
def mel_filters(bands: int) -> Floats:
    """Return triangular mel filters `[bands, 257]` of peak 1 over 50-7600 Hz (Slaney's scale, as in librosa)."""
    from librosa.filters import mel

    return np.asarray(mel(sr=SAMPLE_RATE_HZ, n_fft=FFT_SIZE, n_mels=bands, fmin=50.0, fmax=7600.0, norm=None, dtype=np.float64))


def decibels(power: Floats, floor: float = POWER_FLOOR) -> Floats:
    """Return 10 log10 of power, at least 10 log10 of `floor` (default -80 dB)."""
    return np.asarray(10.0 * np.log10(np.maximum(power, floor)))


@dataclass(frozen=True)
class AcousticExpert:
    """An expert that uses signal processing: a spec, and a function from a waveform `[N]` to frames `[T, d]`.

    Clips are processed one by one, so a clip's frames are bitwise the same alone and in any batch.
    """

    spec: ExpertSpec
    compute: Callable[[Floats], Floats]
    hop: int = HOP
    """Samples per frame."""

    def __call__(self, waveforms: NDArray[np.float32], lengths: NDArray[np.int64]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Return features `[B, T, d]` and mask `[B, T]`, T = ceil(longest / hop).

        Raises:
            ExpertError: the shapes do not match, or a length is less than 1 or greater than N.
        """
        check_batch(waveforms, lengths)
        frames = [frame_count(int(n), self.hop) for n in lengths]
        features = np.zeros((len(frames), max(frames, default=0), self.spec.dim), dtype=np.float32)
        mask = np.zeros(features.shape[:2], dtype=np.bool_)
        for row, (count, length) in enumerate(zip(frames, lengths, strict=True)):
            features[row, :count] = self.compute(waveforms[row, :length].astype(np.float64))
            mask[row, :count] = True
        return features, mask


def acoustic_spec(implementation: str, kind: Kind, target: Target, *, version: str, source: str, dim_names: tuple[str, ...]) -> ExpertSpec:
    """Return the spec of an acoustic expert; the fields that all of them share are set here."""
    return ExpertSpec(
        implementation=implementation,
        kind=kind,
        target=target,
        dim=len(dim_names),
        native_rate_hz=FRAME_RATE_HZ,
        sample_rate_hz=SAMPLE_RATE_HZ,
        version=version,
        licence="Apache-2.0",
        commercial_use=True,
        source=source,
        dim_names=dim_names,
    )
