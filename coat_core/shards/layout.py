"""The layout of a store: which shard a clip is in, by the first digits of its audio hash.

The clips whose hashes begin with the same two hexadecimal digits are one shard. If its estimated size exceeds the limit, it is divided by
one more digit, and so on, up to a single clip. The layout depends on the hashes and the durations of the clips and on nothing else: neither
on their order, nor on the files of a store, nor on the progress of an extraction.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TypeVar

Value = TypeVar("Value")

PREFIX_LENGTH = 2
"""Fewest hexadecimal digits of the audio hash in the name of a shard."""
LIMIT_BYTES = 256 << 20
"""Largest estimated size of a shard of several clips. A shard is built in memory."""
_CLIP_BYTES = 80
"""Bytes of a clip in the header of its shard."""
_BEGIN, _END = "shard-", ".safetensors"


@dataclass(frozen=True)
class Layout:
    """The shards of a store. No prefix begins with another one."""

    prefixes: tuple[str, ...]
    """The prefix of each shard, sorted."""

    def name(self, sha256: str) -> str:
        """Return the file name of a clip's shard.

        Raises:
            KeyError: no shard of the layout can contain this hash.
        """
        place = bisect_right(self.prefixes, sha256) - 1
        if place < 0 or not sha256.startswith(self.prefixes[place]):
            raise KeyError(sha256)
        return shard_name(self.prefixes[place])

    def group(self, clips: Mapping[str, Value]) -> dict[str, dict[str, Value]]:
        """Return the clips of each shard by the shard's file name; shards and clips are in the order of the hashes."""
        return {name: {sha256: clips[sha256] for sha256 in members} for name, members in groupby(sorted(clips), self.name)}


def layout_of(durations_s: Mapping[str, float], rate_hz: float, frame_bytes: int) -> Layout:
    """Return the layout of a store.

    Args:
        durations_s: duration of each clip by audio hash.
        rate_hz: frames per second of the store.
        frame_bytes: bytes of one frame in all arrays of a shard.
    """
    sizes = {sha256: _CLIP_BYTES + frame_bytes * max(1, math.ceil(duration * rate_hz)) for sha256, duration in durations_s.items()}
    return Layout(tuple(_prefixes(sorted(sizes), sizes, PREFIX_LENGTH)))


def _prefixes(hashes: Sequence[str], sizes: Mapping[str, int], length: int) -> Iterator[str]:
    """Yield the prefixes of sorted hashes whose first `length - 1` digits are equal or not looked at."""
    for prefix, group in groupby(hashes, lambda sha256: sha256[:length]):
        members = list(group)
        if len(members) > 1 and sum(sizes[sha256] for sha256 in members) > LIMIT_BYTES:
            yield from _prefixes(members, sizes, length + 1)
        else:
            yield prefix


def shard_name(prefix: str) -> str:
    """Return the file name of the shard with a prefix."""
    return f"{_BEGIN}{prefix}{_END}"


def prefix_of(name: str) -> str | None:
    """Return the prefix of a shard's file name, or None for another file."""
    return name[len(_BEGIN) : -len(_END)] if name.startswith(_BEGIN) and name.endswith(_END) else None
