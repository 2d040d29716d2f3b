"""From waveforms to what a shard keeps of each clip: frames in float16 and their mask, checked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from coat_core.errors import ExpertError, OutOfMemoryError
from coat_core.experts.base import Expert
from coat_core.experts.store.shard import Clip
from coat_core.experts.store.waveforms import Waveforms

Padded = tuple[NDArray[np.float32], NDArray[np.int64]]
"""Waveforms `[B, N]`, zero-padded, and lengths `[B]`."""


def describe_clip(expert: Expert, key: str, sha256: str, path: Path, waveforms: Waveforms) -> Clip:
    """Describe one clip alone, every frame as the expert returns it.

    Raises:
        AudioError: the file cannot be decoded.
        ExpertError: it is not the one that its hash names, or features have a wrong shape or are not finite in float16.
    """
    waveform = waveforms.read(sha256, path)
    features, mask = expert(waveform[None], np.array([len(waveform)], dtype=np.int64))
    _check_shape(expert, key, features, mask, [path])
    return _stored(expert, key, features[0], path), mask[0]


def read_batch(clips: Sequence[tuple[str, Path]], waveforms: Waveforms) -> Padded:
    """Read clips (audio hash and file) into one padded array.

    Raises:
        AudioError: a file cannot be decoded; it is named.
        ExpertError: a file is not the one that its hash names.
    """
    read = [waveforms.read(sha256, path) for sha256, path in clips]
    lengths = np.array([len(waveform) for waveform in read], dtype=np.int64)
    padded = np.zeros((len(read), int(lengths.max())), dtype=np.float32)
    for row, waveform in zip(padded, read, strict=True):
        row[: len(waveform)] = waveform
    return padded, lengths


def describe_batch(expert: Expert, key: str, paths: Sequence[Path], padded: Padded) -> list[Clip]:
    """Describe clips together: each keeps its frames up to its last valid one, and zeros where a frame is not valid.

    Raises:
        ExpertError: features have a wrong shape, or are not finite in float16; expert, clip, frame and dimension are named.
        OutOfMemoryError: the device has too little memory for the batch.
    """
    with _memory(key, padded):
        features, mask = expert(*padded)
    _check_shape(expert, key, features, mask, paths)
    found = []
    for path, frames, valid in zip(paths, features, mask, strict=True):
        # At least one frame, be it invalid: a clip without any has no place in a shard.
        end = int(np.flatnonzero(valid)[-1]) + 1 if valid.any() else 1
        kept = np.where(valid[:end, None], frames[:end], np.float32(0.0))
        found.append((_stored(expert, key, kept, path), valid[:end].copy()))
    return found


def _check_shape(expert: Expert, key: str, features: NDArray[np.float32], mask: NDArray[np.bool_], paths: Sequence[Path]) -> None:
    spec, B = expert.spec, len(paths)
    if mask.ndim != 2 or len(mask) != B or mask.shape[1] == 0 or features.shape != (*mask.shape, spec.dim):
        raise ExpertError(
            f"expert {key} ({spec.implementation}) returned a wrong shape for {', '.join(map(str, paths))}",
            field="features",
            value=(features.shape, mask.shape),
            allowed=f"[{B}, T, {spec.dim}] and a mask [{B}, T]",
        )


def _stored(expert: Expert, key: str, features: NDArray[np.float32], path: Path) -> NDArray[np.float16]:
    spec = expert.spec
    with np.errstate(over="ignore"):
        stored = features.astype(np.float16)
    bad = np.argwhere(~np.isfinite(stored))
    if len(bad):
        frame, dim = (int(i) for i in bad[0])
        raise ExpertError(
            f"expert {key} ({spec.implementation}) gave {len(bad)} values that are not finite in float16 for {path}; "
            f"the first at frame {frame} ({frame / spec.native_rate_hz:.2f} s), dimension {dim} ({spec.dim_names[dim]})",
            field=f"features.{key}",
            value=float(features[frame, dim]),
            allowed="finite, at most 65504 in size",
            next_step="listen to the clip, then mend the expert or set the clip aside; nothing of this shard was written",
        )
    return stored


@contextmanager
def _memory(key: str, padded: Padded) -> Iterator[None]:
    """Say which lever to pull when the device, or the host, is full."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        # torch.OutOfMemoryError, without importing torch for an expert that has none. On a processor torch has no type for it.
        host = isinstance(error, MemoryError) or "can't allocate memory" in str(error)
        if not host and type(error).__name__ != "OutOfMemoryError":
            raise
        waveforms, lengths = padded
        other = "lower runtime.threads (each hears a batch)" if host else "give dtype: bfloat16, or device: cpu"
        raise OutOfMemoryError(
            f"expert {key} ran out of memory on {len(lengths)} clips padded to {waveforms.shape[1]} samples: {error}",
            field=f"experts.{key}.batch_seconds",
            next_step=f"halve batch_seconds (down to the longest clip), or {other}",
        ) from error
