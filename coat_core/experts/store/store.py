"""The expert store: an expert's features of every clip, on disk, keyed by the audio's SHA-256, read by memory map."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coat_core.errors import ExpertError
from coat_core.experts.base import ExpertSpec
from coat_core.experts.store.normaliser import Normaliser, read_normaliser
from coat_core.experts.store.shard import Shard, open_shard
from coat_core.storage import read_json

INDEX, SPEC, NORMALISER = "index.json", "spec.json", "normaliser.safetensors"
"""The index is written last and removed first: a store that has it is whole."""


class ExpertStore:
    """Features of one expert, opened by `ExpertStore.open`; cheap to open, safe to pickle, shards are mapped when first read."""

    def __init__(self, folder: Path, spec: ExpertSpec, fingerprint: str, normaliser: Normaliser, index: dict[str, dict[str, Any]]) -> None:
        self.folder, self.spec, self.fingerprint, self.normaliser = folder, spec, fingerprint, normaliser
        self._index = index
        self._shards: dict[str, Shard] = {}

    @classmethod
    def open(cls, folder: Path) -> ExpertStore:
        """Open a store.

        Raises:
            ExpertError: the folder is missing, or its extraction never came to the end.
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
            read_json(folder / INDEX),
        )

    def get(self, sha256: str) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Return features `[T, d]` and mask `[T]` of a clip, not standardised, at `spec.native_rate_hz`.

        Raises:
            ExpertError: the clip is not in the store, or its shard is broken.
        """
        entry = self._entry(sha256)
        features, mask = self._shard(entry["shard"]).slice(entry["offset"], entry["frames"])
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

    def _entry(self, sha256: str) -> dict[str, Any]:
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
    """Return the spec that `ExpertSpec.to_json` wrote.

    Raises:
        ExpertError: a field is missing or unknown.
    """
    try:
        return ExpertSpec(**{**values, "dim_names": tuple(values["dim_names"])})
    except (TypeError, KeyError) as error:
        raise ExpertError(f"an expert's spec cannot be read: {error}", field=SPEC, next_step="run `coat features` again") from error
