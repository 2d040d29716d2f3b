"""The audio store: the output of a backbone's frozen audio tower for every clip, on disk, by the audio's SHA-256, memory-mapped.

Training and evaluation of all arms read it, so that the tower runs once a clip. A clip takes A x D values: at 25 audio tokens a second
and 4096 values of bfloat16 a token, an hour of audio takes 737 MB.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from coat_core.audio_store.shards import open_shard, read_audio
from coat_core.audio_store.tower import Tower, tower_of
from coat_core.backbones.base import Backbone
from coat_core.errors import AudioStoreError
from coat_core.shards.index import Entry, ShardIndex
from coat_core.shards.shard import Shard
from coat_core.storage import read_json

INDEX, IDENTITY = "index.json", "tower.json"
"""The index is written last and removed first: a store with an index is complete."""


class AudioStore:
    """Audio embeddings of one backbone. Open it with `AudioStore.open`; a shard is mapped when it is first read."""

    def __init__(self, folder: Path, tower: Tower, fingerprint: str, index: Mapping[str, Entry]) -> None:
        self.folder, self.tower, self.fingerprint = folder, tower, fingerprint
        self._index = index
        self._shards: dict[str, Shard] = {}

    @classmethod
    def open(cls, folder: Path, backbone: Backbone) -> AudioStore:
        """Open a store for a backbone, whose tower must be the one that the store was computed with.

        Args:
            folder: the store.
            backbone: the LALM, with or without LoRA: LoRA changes the language model only.

        Raises:
            AudioStoreError: the folder is missing, its extraction did not finish, or it is of another tower; the message names the field.
        """
        again = f"run `coat audio {backbone.key}`"
        if not (folder / INDEX).is_file():
            raise AudioStoreError("an audio store is missing or unfinished", field="audio", value=str(folder), next_step=again)
        identity = read_json(folder / IDENTITY)
        stored, expected = Tower.from_json(identity["tower"]), tower_of(backbone)
        for field, value in expected.to_json().items():
            if (found := stored.to_json()[field]) != value:
                raise AudioStoreError(
                    f"{folder} was computed with another audio tower",
                    field=field,
                    value=found,
                    allowed=f"{value} (of the loaded base)",
                    next_step=f"{again} again, or load the base that the store was computed with",
                )
        return cls(folder, stored, identity["fingerprint"], ShardIndex(folder / INDEX))

    def get(self, sha256: str) -> Tensor:
        """Return a clip's audio embeddings `[A, D]` in the tower's data type, bitwise equal to the tower's output.

        The tensor may share memory with other results and must not be changed in place.

        Raises:
            AudioStoreError: the clip is not in the store, or its shard is invalid.
        """
        entry = self._entry(sha256)
        return read_audio(self._shard(entry["shard"]), entry["offset"], entry["tokens"])

    def waveform(self, sha256: str) -> NDArray[np.float32]:
        """Return an array `[N]` of the clip's length that contains NaN, without decoding the clip.

        A query that is only encoded needs the length of its waveform and not the samples; the array takes no memory.

        Raises:
            AudioStoreError: the clip is not in the store.
        """
        return np.broadcast_to(np.float32("nan"), (int(self._entry(sha256)["samples"]),))

    def __contains__(self, sha256: object) -> bool:
        return sha256 in self._index

    def __len__(self) -> int:
        return len(self._index)

    def __iter__(self) -> Iterator[str]:
        return iter(self._index)

    def _entry(self, sha256: str) -> Entry:
        try:
            return self._index[sha256]
        except KeyError:
            raise AudioStoreError(
                f"{self.folder} has no output of the audio tower for this audio", field="sha256", value=sha256,
                next_step=f"run `coat audio {self.tower.backbone}` on this corpus",
            ) from None  # fmt: skip

    def _shard(self, name: str) -> Shard:
        shard = self._shards.get(name)
        if shard is None:
            shard = open_shard(self.folder / name)
            if shard.fingerprint != self.fingerprint:
                raise AudioStoreError(
                    "a shard was computed by another run of the tower", field="shard", value=str(self.folder / name),
                    next_step=f"run `coat audio {self.tower.backbone}` again",
                )  # fmt: skip
            self._shards[name] = shard
        return shard
