"""The expert store: an expert's features of every clip on disk, by the audio's SHA-256, memory-mapped."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coat_core.errors import ExpertError
from coat_core.experts.base import ExpertSpec
from coat_core.experts.store.shards import open_shard, read_clip
from coat_core.shards.index import Entry, ShardIndex
from coat_core.shards.shard import Shard
from coat_core.storage import read_json

INDEX, SPEC, NORMALISER = "index.json", "spec.json", "normaliser.safetensors"
"""The index is written last and removed first: a store with an index is complete."""
STD_FLOOR = 1e-2
"""Minimum standard deviation: a dimension that is almost constant in training must not have large standardised values elsewhere."""


@dataclass(frozen=True)
class Normaliser:
    """Mean and standard deviation of each dimension of an expert's features."""

    mean: NDArray[np.float32]
    """`[d]`"""
    std: NDArray[np.float32]
    """`[d]`, at least `STD_FLOOR`."""

    def to_bytes(self) -> bytes:
        """Return the content of the safetensors file."""
        from safetensors.numpy import save

        data: bytes = save({"mean": self.mean, "std": self.std})
        return data


class ExpertStore:
    """Features of one expert. Open it with `ExpertStore.open`. It can be pickled; a shard is mapped when it is first read."""

    def __init__(self, folder: Path, spec: ExpertSpec, fingerprint: str, normaliser: Normaliser, index: Mapping[str, Entry]) -> None:
        self.folder, self.spec, self.fingerprint, self.normaliser = folder, spec, fingerprint, normaliser
        self._index = index
        self._shards: dict[str, Shard] = {}

    @classmethod
    def open(cls, folder: Path) -> ExpertStore:
        """Open a store.

        Raises:
            ExpertError: the folder is missing, or its extraction did not finish.
        """
        folder = Path(folder)
        if not (folder / INDEX).is_file():
            raise ExpertError(
                "an expert store is missing or unfinished", field="features", value=str(folder), next_step="run `coat features`"
            )
        identity = read_json(folder / SPEC)
        return cls(
            folder,
            spec_from_json(identity["spec"]),
            identity["fingerprint"],
            read_normaliser(folder / NORMALISER),
            ShardIndex(folder / INDEX),
        )

    def get(self, sha256: str) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Return features `[T, d]` and mask `[T]` of a clip, not standardised, at `spec.native_rate_hz`.

        Raises:
            ExpertError: the clip is not in the store, or its shard is invalid.
        """
        entry = self._entry(sha256)
        features, mask = read_clip(self._shard(entry["shard"]), entry["offset"], entry["frames"])
        return features.astype(np.float32), mask

    def frames(self, sha256: str) -> int:
        """Return the number of frames of a clip, without reading them.

        Raises:
            ExpertError: the clip is not in the store.
        """
        return int(self._entry(sha256)["frames"])

    def __contains__(self, sha256: object) -> bool:
        return sha256 in self._index

    def __len__(self) -> int:
        return len(self._index)

    def __iter__(self) -> Iterator[str]:
        return iter(self._index)

    def __reduce__(self) -> tuple[Any, ...]:
        return ExpertStore.open, (self.folder,)

    def _entry(self, sha256: str) -> Entry:
        try:
            return self._index[sha256]
        except KeyError:
            raise ExpertError(
                f"{self.folder} has no features of this audio", field="sha256", value=sha256, next_step="run `coat features` on this corpus"
            ) from None

    def _shard(self, name: str) -> Shard:
        shard = self._shards.get(name)
        if shard is None:
            shard = open_shard(self.folder / name)
            if shard.fingerprint != self.fingerprint:
                raise ExpertError("a shard was computed by another version of its expert", field="shard", value=str(self.folder / name),
                                  next_step="run `coat features` again")  # fmt: skip
            self._shards[name] = shard
        return shard


def spec_from_json(values: dict[str, Any]) -> ExpertSpec:
    """Return the spec from the values of `ExpertSpec.to_json`.

    Raises:
        ExpertError: a field is missing or unknown.
    """
    try:
        return ExpertSpec(**{**values, "dim_names": tuple(values["dim_names"])})
    except (TypeError, KeyError) as error:
        raise ExpertError(f"an expert's spec cannot be read: {error}", field=SPEC, next_step="run `coat features` again") from error


def fit_normaliser(clips: Iterable[tuple[NDArray[np.float32], NDArray[np.bool_]]], dim: int) -> Normaliser:
    """Return the statistics of the valid frames of clips (features `[T, d]`, mask `[T]`), one clip in memory at a time, in float64.

    The statistics of the clips are merged as in Chan, Golub and LeVeque (1979).

    Raises:
        ExpertError: the clips have no valid frame.
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
            "the training split has no valid frame for the normaliser",
            field="split",
            value="train",
            next_step="add clips to the training split",
        )
    return Normaliser(mean.astype(np.float32), np.maximum(np.sqrt(squares / count), STD_FLOOR).astype(np.float32))


def read_normaliser(path: Path) -> Normaliser:
    """Read `normaliser.safetensors`.

    Raises:
        ExpertError: the file is missing or invalid.
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
