"""Mean and deviation of every dimension, over the valid frames of the training split only."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from coat_core.errors import ExpertError

STD_FLOOR = 1e-2
"""A dimension that hardly moves in training must not blow up elsewhere."""


@dataclass(frozen=True)
class Normaliser:
    """What standardises an expert's features."""

    mean: NDArray[np.float32]
    """`[d]`"""
    std: NDArray[np.float32]
    """`[d]`, at least 0.01."""

    def apply(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return standardised features `[…, d]`."""
        return np.asarray((features - self.mean) / self.std, dtype=np.float32)

    def to_bytes(self) -> bytes:
        """Return the safetensors file."""
        from safetensors.numpy import save

        data: bytes = save({"mean": self.mean, "std": self.std})
        return data


def fit_normaliser(clips: Iterable[tuple[NDArray[np.float32], NDArray[np.bool_]]], dim: int) -> Normaliser:
    """Merge the statistics of clips (features `[T, d]`, mask `[T]`) one by one (Chan, Golub and LeVeque 1979), in float64.

    Raises:
        ExpertError: there is not one valid frame.
    """
    count, mean, squares = 0, np.zeros(dim), np.zeros(dim)
    for features, mask in clips:
        valid = features[mask].astype(np.float64)
        if len(valid) == 0:
            continue
        clip_mean = valid.mean(axis=0)
        shift, total = clip_mean - mean, count + len(valid)
        squares += ((valid - clip_mean) ** 2).sum(axis=0) + shift**2 * (count * len(valid) / total)
        mean += shift * (len(valid) / total)
        count = total
    if count == 0:
        raise ExpertError(
            "the training split has no valid frame to normalise by",
            field="split",
            value="train",
            next_step="give the corpus a training split",
        )
    return Normaliser(mean.astype(np.float32), np.maximum(np.sqrt(squares / count), STD_FLOOR).astype(np.float32))


def read_normaliser(path: Path) -> Normaliser:
    """Read `normaliser.safetensors`.

    Raises:
        ExpertError: the file is missing or broken.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        tensors = load(path.read_bytes())
        return Normaliser(tensors["mean"], tensors["std"])
    except (OSError, SafetensorError, KeyError) as error:
        raise ExpertError(
            f"cannot read a normaliser: {error}", field="normaliser", value=str(path), next_step="run `coat features` again"
        ) from error
