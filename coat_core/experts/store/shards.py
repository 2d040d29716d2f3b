"""Shards of an expert store: the frames of all clips whose audio hashes have the same prefix, in the order of the hashes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coat_core.errors import ExpertError
from coat_core.settings import ExpertSettings
from coat_core.storage import write_bytes

PREFIX_LENGTH = 2
"""Hex digits of the audio hash in the name of a shard: up to 256 shards."""

Clip = tuple[NDArray[np.float16], NDArray[np.bool_]]
"""Features `[T, d]` and mask `[T]`."""


def shard_name(sha256: str) -> str:
    """Return the file name of the shard of an audio hash."""
    return f"shard-{sha256[:PREFIX_LENGTH]}.safetensors"


@dataclass(frozen=True)
class Shard:
    """A complete shard on disk, memory-mapped."""

    fingerprint: str
    """Fingerprint of the expert that computed it."""
    frames: dict[str, int]
    """Number of frames of each clip by audio hash, in stored order."""
    reader: Any

    @property
    def offsets(self) -> dict[str, int]:
        """First frame of each clip."""
        starts = np.cumsum([0, *self.frames.values()])
        return {sha256: int(start) for sha256, start in zip(self.frames, starts, strict=False)}

    def slice(self, offset: int, frames: int) -> Clip:
        """Return features `[frames, d]` (float16) and mask `[frames]` from frame `offset` on."""
        end = offset + frames
        return self.reader.get_slice("features")[offset:end], self.reader.get_slice("mask")[offset:end]


def shard_bytes(fingerprint: str, clips: Mapping[str, Clip]) -> bytes:
    """Return the content of a shard's file; the order of `clips` does not change it."""
    from safetensors.numpy import save

    ordered = sorted(clips)
    # A single metadata key: safetensors does not keep the order of several.
    header = {"fingerprint": fingerprint, "frames": {sha256: len(clips[sha256][0]) for sha256 in ordered}}
    tensors = {
        "features": np.concatenate([clips[sha256][0] for sha256 in ordered]),
        "mask": np.concatenate([clips[sha256][1] for sha256 in ordered]),
    }
    data: bytes = save(tensors, metadata={"shard": json.dumps(header, separators=(",", ":"))})
    return data


def open_shard(path: Path) -> Shard:
    """Memory-map a shard.

    Raises:
        ExpertError: the file is missing, truncated or not a shard.
    """
    from safetensors import SafetensorError, safe_open

    try:
        reader: Any = safe_open(path, framework="numpy")
        header = json.loads(reader.metadata()["shard"])
        shard = Shard(header["fingerprint"], header["frames"], reader)
        total = sum(shard.frames.values())
        if reader.get_slice("features").get_shape()[0] != total or reader.get_slice("mask").get_shape() != [total]:
            raise ValueError("frames and header do not match")
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ExpertError(f"cannot read a shard: {error}", field="shard", value=str(path), next_step="run `coat features` again") from error
    return shard


@dataclass(frozen=True)
class ShardJob:
    """A shard to be written: its clips, and those of an older shard of the same expert, which are reused."""

    key: str
    settings: ExpertSettings
    fingerprint: str
    path: Path
    audio: Mapping[str, Path]
    """Audio file by SHA-256."""
    cache: Path | None
    """Folder of the cache of decoded waveforms."""

    def is_current(self) -> bool:
        """Return whether the shard on disk has the same fingerprint and the same clips."""
        shard = self._older()
        return shard is not None and list(shard.frames) == sorted(self.audio)

    def missing(self) -> list[str]:
        """Return the hashes of the clips that are not in an older shard of the same expert; only its header is read."""
        shard = self._older()
        return sorted(set(self.audio) - set(shard.frames if shard is not None else ()))

    def known(self) -> dict[str, Clip]:
        """Return the clips that are in an older shard of the same expert."""
        shard = self._older()
        if shard is None:
            return {}
        return {sha256: shard.slice(offset, shard.frames[sha256]) for sha256, offset in shard.offsets.items() if sha256 in self.audio}

    def write(self, clips: Mapping[str, Clip]) -> None:
        """Write the complete shard."""
        write_bytes(self.path, shard_bytes(self.fingerprint, {sha256: clips[sha256] for sha256 in self.audio}))

    def _older(self) -> Shard | None:
        """Return the shard on disk, or None if it is missing, invalid or of another fingerprint."""
        try:
            shard = open_shard(self.path)
        except ExpertError:
            return None
        return shard if shard.fingerprint == self.fingerprint else None
