"""The index of a store: JSON, by audio hash, of the shard, the first frame and other whole numbers of each clip.

A million clips take 140 MB of JSON, which Python's dictionaries would make 500 MB. The index is read in pieces into arrays, 100 MB.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coat_core.errors import CoatError

_PIECE_BYTES = 1 << 22
_END = b"}, "
"""Between two clips. No hash and no name of a shard contains it."""
_SHARD = "shard"

Entry = dict[str, Any]
"""`shard`, the name of a file, and whole numbers."""


class ShardIndex(Mapping[str, Entry]):
    """The index of a complete store, read from a file."""

    def __init__(self, path: Path) -> None:
        """Read an index.

        Raises:
            CoatError: the file is missing or is no index.
        """
        shards: dict[str, int] = {}
        hashes: list[NDArray[np.bytes_]] = []
        columns: list[NDArray[np.int64]] = []
        names: tuple[str, ...] = ()
        try:
            for piece in filter(None, _pieces(path)):
                names = names or tuple(name for name in next(iter(piece.values())) if name != _SHARD)
                hashes.append(np.array([*piece], dtype=np.bytes_))
                rows = ((shards.setdefault(e[_SHARD], len(shards)), *(e[name] for name in names)) for e in piece.values())
                columns.append(np.array([*rows], dtype=np.int64).T)
            self._hashes = np.concatenate(hashes) if hashes else np.zeros(0, dtype="S1")
            self._columns = np.concatenate(columns, axis=1) if columns else np.zeros((1, 0), dtype=np.int64)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise CoatError(
                f"cannot read the index of a store: {error}", field="path", value=str(path), next_step="run the stage that creates it"
            ) from error
        self._shards, self._names = tuple(shards), names
        assert bool(np.all(self._hashes[:-1] < self._hashes[1:])), f"{path} is sorted by hash"

    def __getitem__(self, sha256: str) -> Entry:
        place = self._place(sha256)
        if place is None:
            raise KeyError(sha256)
        shard, *values = self._columns[:, place].tolist()
        return {_SHARD: self._shards[shard], **dict(zip(self._names, values, strict=True))}

    def __contains__(self, sha256: object) -> bool:
        return isinstance(sha256, str) and self._place(sha256) is not None

    def __len__(self) -> int:
        return len(self._hashes)

    def __iter__(self) -> Iterator[str]:
        return (sha256.decode() for sha256 in self._hashes.tolist())

    def _place(self, sha256: str) -> int | None:
        key = sha256.encode()
        place = int(np.searchsorted(self._hashes, key))
        return place if place < len(self._hashes) and self._hashes[place] == key else None


def index_bytes(entries: Iterable[tuple[str, Entry]]) -> bytes:
    """Return the content of an index.

    Args:
        entries: audio hash and entry of each clip, in the order of the hashes.
    """
    found = bytearray(b"{")
    for sha256, entry in entries:
        found += f"{', ' if len(found) > 1 else ''}{json.dumps(sha256)}: {json.dumps(entry, sort_keys=True)}".encode()
    found += b"}\n"
    return bytes(found)


def json_bytes(value: object) -> bytes:
    """Return indented JSON with sorted keys as bytes."""
    return (json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n").encode()


def _pieces(path: Path) -> Iterator[dict[str, Entry]]:
    """Yield the clips of an index, a few megabytes at a time."""
    with path.open("rb") as stream:
        rest = stream.read(1)
        if rest != b"{":
            raise ValueError("it does not begin with {")
        rest = b""
        while data := stream.read(_PIECE_BYTES):
            rest += data
            end = rest.rfind(_END)
            if end >= 0:
                yield json.loads(b"{" + rest[: end + 1] + b"}")
                rest = rest[end + len(_END) :]
    yield json.loads(b"{" + rest)
