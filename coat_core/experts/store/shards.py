"""The shards of an expert store: features and masks of clips."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from coat_core.errors import ExpertError
from coat_core.settings import ExpertSettings
from coat_core.shards import shard as files
from coat_core.shards.shard import Shard, shard_metadata
from coat_core.shards.update import ShardUpdate
from coat_core.storage import write_bytes

Clip = tuple[NDArray[np.float16], NDArray[np.bool_]]
"""Features `[T, d]` and mask `[T]`."""


def read_clip(shard: Shard, offset: int, frames: int) -> Clip:
    """Return features `[frames, d]` (float16) and mask `[frames]` from frame `offset` on."""
    return shard.frames_of("features", offset, frames), shard.frames_of("mask", offset, frames)


def shard_bytes(fingerprint: str, clips: Mapping[str, Clip]) -> bytes:
    """Return the content of a shard's file; the order of `clips` does not change it."""
    from safetensors.numpy import save

    ordered = sorted(clips)
    tensors = {
        "features": np.concatenate([clips[sha256][0] for sha256 in ordered]),
        "mask": np.concatenate([clips[sha256][1] for sha256 in ordered]),
    }
    data: bytes = save(tensors, metadata=shard_metadata(fingerprint, {sha256: len(clips[sha256][0]) for sha256 in ordered}))
    return data


def open_shard(path: Path) -> Shard:
    """Memory-map a shard.

    Raises:
        ExpertError: the file is missing, truncated or not a shard.
    """
    try:
        return files.open_shard(path, ("features", "mask"), "numpy")
    except ValueError as error:
        raise ExpertError(f"cannot read a shard: {error}", field="shard", value=str(path), next_step="run `coat features` again") from error


@dataclass(frozen=True)
class ShardJob(ShardUpdate):
    """A shard to be written: its clips, and those of older shards of the same expert, which are reused."""

    key: str
    settings: ExpertSettings
    cache: Path | None
    """Folder of the cache of decoded waveforms."""

    def open(self, path: Path) -> Shard:
        """Memory-map a shard on disk; see `open_shard`."""
        return open_shard(path)

    def known(self) -> dict[str, Clip]:
        """Return the clips that are in older shards of the same expert."""
        found: dict[str, Clip] = {}
        for shard in self.older():
            for sha256, offset in shard.offsets.items():
                if sha256 in self.audio and sha256 not in found:
                    found[sha256] = read_clip(shard, offset, shard.frames[sha256])
        return found

    def write(self, clips: Mapping[str, Clip]) -> None:
        """Write the complete shard."""
        write_bytes(self.path, shard_bytes(self.fingerprint, {sha256: clips[sha256] for sha256 in self.audio}))
