"""One shard of an expert store: the frames of all clips whose audio hash begins alike, in the order of the hashes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coat_core.errors import ExpertError

PREFIX_LENGTH = 2
"""Hex digits of the audio hash that name the shard: up to 256 shards."""

Clip = tuple[NDArray[np.float16], NDArray[np.bool_]]
"""Features `[T, d]` and mask `[T]`."""


def shard_name(sha256: str) -> str:
    """Return the file name of the shard that holds an audio hash."""
    return f"shard-{sha256[:PREFIX_LENGTH]}.safetensors"


@dataclass(frozen=True)
class Shard:
    """A whole shard on disk, memory-mapped."""

    fingerprint: str
    """Of the expert that computed it."""
    frames: dict[str, int]
    """Frames of each clip by audio hash, in stored order."""
    reader: Any

    @property
    def offsets(self) -> dict[str, int]:
        """First frame of each clip."""
        starts = np.cumsum([0, *self.frames.values()])
        return {sha256: int(start) for sha256, start in zip(self.frames, starts, strict=False)}

    def slice(self, offset: int, frames: int) -> Clip:
        """Return features `[frames, d]` float16 and mask `[frames]` from a position on."""
        end = offset + frames
        return self.reader.get_slice("features")[offset:end], self.reader.get_slice("mask")[offset:end]


def shard_bytes(fingerprint: str, clips: Mapping[str, Clip]) -> bytes:
    """Return a shard's file; the same clips give the same bytes in whatever order they come."""
    from safetensors.numpy import save

    ordered = sorted(clips)
    # One metadata key only: safetensors keeps no order among several.
    header = {"fingerprint": fingerprint, "frames": {sha256: len(clips[sha256][0]) for sha256 in ordered}}
    tensors = {
        "features": np.concatenate([clips[sha256][0] for sha256 in ordered]),
        "mask": np.concatenate([clips[sha256][1] for sha256 in ordered]),
    }
    data: bytes = save(tensors, metadata={"shard": json.dumps(header, separators=(",", ":"))})
    return data


def open_shard(path: Path) -> Shard:
    """Map a shard.

    Raises:
        ExpertError: the file is missing, cut short or not a shard.
    """
    from safetensors import SafetensorError, safe_open

    try:
        reader: Any = safe_open(path, framework="numpy")
        header = json.loads(reader.metadata()["shard"])
        shard = Shard(header["fingerprint"], header["frames"], reader)
        total = sum(shard.frames.values())
        if reader.get_slice("features").get_shape()[0] != total or reader.get_slice("mask").get_shape() != [total]:
            raise ValueError("frames and header disagree")
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ExpertError(f"cannot read a shard: {error}", field="shard", value=str(path), next_step="run `coat features` again") from error
    return shard
