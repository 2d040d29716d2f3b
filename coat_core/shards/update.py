"""Update of a store in place: shards that are not current are written again, from clips that are on disk and new ones.

The index is removed before any change and written last. When a shard is divided, or several become one, because the corpus has changed,
their clips are copied; a file that is no longer in the layout is removed once all its clips are in the new shards. So a kill loses no clip
of a complete shard, and does not change the bytes of the result.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from bisect import bisect_left
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Generic, TypeVar

from coat_core.errors import CoatError
from coat_core.shards.layout import prefix_of, shard_name
from coat_core.shards.shard import Shard
from coat_core.storage import write_bytes

Update = TypeVar("Update", bound="ShardUpdate")


@dataclass(frozen=True)
class ShardUpdate(ABC):
    """A shard to be brought up to date. Clips of the same fingerprint that are on disk are reused."""

    path: Path
    fingerprint: str
    """Fingerprint of the model that computes the clips."""
    audio: Mapping[str, Path]
    """Audio file by SHA-256, in the order of the hashes."""
    superseded: tuple[Path, ...] = field(default=(), kw_only=True)
    """Shards of another layout with clips of this shard; see `begin_update`."""

    @abstractmethod
    def open(self, path: Path) -> Shard:
        """Memory-map a shard on disk.

        Raises:
            CoatError: it is missing, truncated or not a shard.
        """

    def older(self) -> Iterator[Shard]:
        """Yield the valid shards of the same fingerprint that may contain clips of this shard, the one at `path` first."""
        for path in (self.path, *self.superseded):
            shard = self._valid(path)
            if shard is not None:
                yield shard

    def is_current(self) -> bool:
        """Return whether the shard on disk has the same fingerprint and the same clips."""
        shard = self._valid(self.path)
        return shard is not None and list(shard.frames) == sorted(self.audio)

    def missing(self) -> list[str]:
        """Return the hashes of the clips that are in no older shard; only headers are read."""
        missing = set(self.audio)
        for shard in self.older():
            missing -= shard.frames.keys()
        return sorted(missing)

    def using(self, superseded: Sequence[Path]) -> tuple[Path, ...]:
        """Return those of the files that have a clip of this shard which neither `path` nor an earlier one of them has."""
        missing, used = set(self.missing()), []
        for path in superseded:
            shard = self._valid(path) if missing else None
            if shard is not None and not missing.isdisjoint(shard.frames):
                used.append(path)
                missing -= shard.frames.keys()
        return tuple(used)

    def _valid(self, path: Path) -> Shard | None:
        try:
            shard = self.open(path)
        except CoatError:
            return None
        return shard if shard.fingerprint == self.fingerprint else None


@dataclass(frozen=True)
class StoreUpdate(Generic[Update]):
    """The shards of a store that are not current."""

    stale: list[Update]
    _waiting: Counter[Path]
    """Number of shards to be written that need a superseded file."""

    def written(self, update: Update) -> None:
        """Remove the superseded files that only this shard, which is now on disk, still needed."""
        for path in update.superseded:
            self._waiting[path] -= 1
            if not self._waiting[path]:
                path.unlink(missing_ok=True)


def begin_update(target: Path, updates: Sequence[Update], files: Sequence[str]) -> StoreUpdate[Update]:
    """Remove the index if anything will change, and files that no shard needs; return the shards that are not current.

    Args:
        target: folder of the store; it is created.
        updates: the updates of all shards with clips.
        files: names of the store's other files, the index last.
    """
    target.mkdir(parents=True, exist_ok=True)
    unused = leftovers(target, [update.path.name for update in updates], files)
    prefixes = sorted(prefix for path in unused if (prefix := prefix_of(path.name)) is not None)
    stale = [
        replace(update, superseded=update.using([target / shard_name(prefix) for prefix in _overlapping(update.path.name, prefixes)]))
        for update in updates
        if not update.is_current()
    ]
    if stale or unused:
        (target / files[-1]).unlink(missing_ok=True)
    waiting = Counter(path for update in stale for path in update.superseded)
    for path in unused:
        if path not in waiting:
            path.unlink()
    return StoreUpdate(stale, waiting)


def _overlapping(name: str, prefixes: Sequence[str]) -> list[str]:
    """Return those of sorted prefixes that a shard's prefix begins with, the longest first, and those that begin with it."""
    prefix = prefix_of(name)
    assert prefix is not None
    found = []
    for length in range(len(prefix) - 1, -1, -1):
        place = bisect_left(prefixes, prefix[:length])
        if place < len(prefixes) and prefixes[place] == prefix[:length]:
            found.append(prefix[:length])
    place = bisect_left(prefixes, prefix)
    while place < len(prefixes) and prefixes[place].startswith(prefix):
        found.append(prefixes[place])
        place += 1
    return found


def publish(target: Path, files: Mapping[str, bytes]) -> None:
    """Write a store's other files, the index last, unless all exist with the same bytes."""
    if all((target / name).is_file() and (target / name).read_bytes() == data for name, data in files.items()):
        return
    (target / list(files)[-1]).unlink(missing_ok=True)
    for name, data in files.items():
        write_bytes(target / name, data)


def leftovers(folder: Path, shards: Collection[str], files: Collection[str]) -> list[Path]:
    """Return shards that are not in the layout, and temporary files of a killed run.

    Args:
        folder: folder of the store.
        shards: names of the shards with clips.
        files: names of the store's other files.
    """
    names, temporary = set(shards), (".shard-", *(f".{name}." for name in files))
    return sorted(
        path for path in folder.iterdir() if (path.name.startswith("shard-") and path.name not in names) or path.name.startswith(temporary)
    )
