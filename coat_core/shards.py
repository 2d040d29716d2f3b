"""Shards of a store: safetensors files with the frames of all clips whose audio hashes have the same prefix, in the order of the hashes.

The expert stores and the audio stores use this format. It says which frames belong to which clip; a store defines its arrays. The folder
of a store is updated in place: a shard that is not current is written again from its older clips and new ones; the index is removed before
any change and written last.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, Literal, TypeVar

from coat_core.errors import CoatError
from coat_core.storage import write_bytes

PREFIX_LENGTH = 2
"""Hex digits of the audio hash in the name of a shard: up to 256 shards."""
_HEADER = "shard"
Update = TypeVar("Update", bound="ShardUpdate")


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


def shard_name(sha256: str) -> str:
    """Return the file name of the shard of an audio hash."""
    return f"shard-{sha256[:PREFIX_LENGTH]}.safetensors"


def group_by_shard(audio: Mapping[str, Path]) -> dict[str, dict[str, Path]]:
    """Return the clips of each shard by the shard's file name, in the order of the hashes."""
    found: dict[str, dict[str, Path]] = defaultdict(dict)
    for sha256 in sorted(audio):
        found[shard_name(sha256)][sha256] = audio[sha256]
    return dict(found)


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


class ShardUpdate(ABC):
    """A shard to be brought up to date. The clips of an older shard with the same fingerprint are reused."""

    path: Path
    fingerprint: str
    """Fingerprint of the model that computes the clips."""
    audio: Mapping[str, Path]
    """Audio file by SHA-256."""

    @abstractmethod
    def open(self) -> Shard:
        """Memory-map the shard on disk.

        Raises:
            CoatError: it is missing, truncated or not a shard.
        """

    def older(self) -> Shard | None:
        """Return the shard on disk, or None if it is missing, invalid or of another fingerprint."""
        try:
            shard = self.open()
        except CoatError:
            return None
        return shard if shard.fingerprint == self.fingerprint else None

    def is_current(self) -> bool:
        """Return whether the shard on disk has the same fingerprint and the same clips."""
        shard = self.older()
        return shard is not None and list(shard.frames) == sorted(self.audio)

    def missing(self) -> list[str]:
        """Return the hashes of the clips that are not in an older shard; only its header is read."""
        shard = self.older()
        return sorted(set(self.audio) - set(shard.frames if shard is not None else ()))


def begin_update(target: Path, updates: Sequence[Update], files: Sequence[str]) -> list[Update]:
    """Remove what a killed run has left, and the index if anything will change; return the updates whose shards are not current.

    Args:
        target: folder of the store; it is created.
        updates: the updates of all shards with clips.
        files: names of the store's other files, the index last.
    """
    target.mkdir(parents=True, exist_ok=True)
    stale = [update for update in updates if not update.is_current()]
    unused = leftovers(target, [update.path.name for update in updates], files)
    if stale or unused:
        (target / files[-1]).unlink(missing_ok=True)
    for path in unused:
        path.unlink()
    return stale


def publish(target: Path, files: Mapping[str, bytes]) -> None:
    """Write a store's other files, the index last, unless all exist with the same bytes."""
    if all((target / name).is_file() and (target / name).read_bytes() == data for name, data in files.items()):
        return
    (target / list(files)[-1]).unlink(missing_ok=True)
    for name, data in files.items():
        write_bytes(target / name, data)


def json_bytes(value: object, *, indent: int | None) -> bytes:
    """Return JSON with sorted keys as bytes."""
    return (json.dumps(value, indent=indent, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n").encode()


def leftovers(folder: Path, shards: Collection[str], files: Collection[str]) -> list[Path]:
    """Return shards without clips, and temporary files of a killed run.

    Args:
        folder: folder of the store.
        shards: names of the shards with clips.
        files: names of the store's other files.
    """
    temporary = tuple(f".{name}." for name in (*shards, *files))
    return sorted(
        path
        for path in folder.iterdir()
        if (path.name.startswith("shard-") and path.name not in shards) or path.name.startswith((".shard-", *temporary))
    )
