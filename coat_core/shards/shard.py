"""The file of a shard: a header with the frames of each clip, and arrays with one entry per frame."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, Literal

_HEADER = "shard"


@dataclass(frozen=True)
class Shard:
    """A complete shard on disk, memory-mapped."""

    fingerprint: str
    """Fingerprint of the model that computed it."""
    frames: dict[str, int]
    """Number of frames of each clip by audio hash, in stored order."""
    reader: Any
    """An open safetensors file."""

    @property
    def offsets(self) -> dict[str, int]:
        """First frame of each clip."""
        return dict(zip(self.frames, accumulate(self.frames.values(), initial=0), strict=False))

    def frames_of(self, array: str, offset: int, frames: int) -> Any:
        """Return the frames of an array from frame `offset` on."""
        return self.reader.get_slice(array)[offset : offset + frames]


def shard_metadata(fingerprint: str, frames: Mapping[str, int]) -> dict[str, str]:
    """Return the metadata of a shard's file; `frames` is in stored order."""
    # A single key: safetensors does not keep the order of several.
    return {_HEADER: json.dumps({"fingerprint": fingerprint, "frames": dict(frames)}, separators=(",", ":"))}


def open_shard(path: Path, arrays: Sequence[str], framework: Literal["numpy", "pt"]) -> Shard:
    """Memory-map a shard.

    Args:
        path: the file.
        arrays: names of the arrays that have one entry per frame.
        framework: type of the arrays that are read. numpy has no bfloat16.

    Raises:
        ValueError: the file is missing, truncated or not such a shard.
    """
    from safetensors import SafetensorError, safe_open

    try:
        reader: Any = safe_open(path, framework=framework)
        header = json.loads(reader.metadata()[_HEADER])
        shard = Shard(header["fingerprint"], header["frames"], reader)
        total = sum(shard.frames.values())
        lengths = {name: reader.get_slice(name).get_shape()[0] for name in arrays}
    except (OSError, SafetensorError, KeyError, TypeError, IndexError) as error:
        raise ValueError(str(error)) from error
    if set(lengths.values()) != {total}:
        raise ValueError("frames and header do not match")
    return shard
