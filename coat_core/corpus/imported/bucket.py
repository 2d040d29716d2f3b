"""A corpus source in an S3 bucket: a snapshot of its objects, and a local copy of exactly these.

The snapshot (`source.jsonl`) lists key, size and entity tag of each object. It is an input of the stage `corpus`: a changed object changes
the snapshot, and with it the key of the stage. The copy consists of links to a cache of the workspace, in which a file is named by its
bucket, key and entity tag: an object is fetched once, a killed import continues, and a changed object is another file.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from coat_core.errors import CorpusError
from coat_core.progress import ProgressBar
from coat_core.storage import new_file, sha256_bytes
from coat_core.storage.s3 import Location, StoredObject, fetch_all, list_objects, open_client, parse_uri

SNAPSHOT = "source.jsonl"
_TREE, _OBJECTS = "tree", "objects"
_STEP = "run `coat source`"


@dataclass(frozen=True)
class SnapshotSummary:
    """What a snapshot has, and how it differs from the one before it."""

    objects: int
    size: int
    """Bytes."""
    added: int
    changed: int
    removed: int

    @property
    def is_new(self) -> bool:
        """Whether it differs from the one before it."""
        return bool(self.added or self.changed or self.removed)


def source_root(kind: str, path: str) -> Location:
    """Return the location whose objects are a source: that of `corpus.path`, or for a manifest the prefix that contains it.

    Raises:
        StorageError: the path is not an S3 location.
    """
    location = parse_uri(path)
    return Location(location.bucket, location.prefix.rpartition("/")[0]) if kind == "manifest" else location


def write_snapshot(kind: str, path: str, target: Path) -> SnapshotSummary:
    """List a source and write its snapshot, unless it is as before. Memory does not grow with the number of objects.

    Args:
        kind: `corpus.kind`.
        path: `corpus.path`, an S3 URI.
        target: the snapshot's file.

    Raises:
        StorageError: the bucket cannot be listed.
        CorpusError: it has no objects there, or a key that cannot be a path below a folder.
    """
    root = source_root(kind, path)
    counts = dict.fromkeys(("objects", "size", "added", "changed", "removed"), 0)
    client = open_client()
    temporary = target.with_name(f".{target.name}.next")
    try:
        with new_file(temporary) as stream:
            stream.write(_line({"bucket": root.bucket, "prefix": root.prefix}))
            for item, before in _aligned(list_objects(client, root), _items_before(target, root)):
                if item is None:
                    counts["removed"] += 1
                    continue
                _check_key(item, root)
                counts["objects"] += 1
                counts["size"] += item.size
                counts["added"] += before is None
                counts["changed"] += before not in (None, item)
                stream.write(_line({"key": item.key, "size": item.size, "etag": item.etag}))
        if not counts["objects"]:
            raise CorpusError("there are no objects", field="corpus.path", value=path, next_step="correct the bucket or the prefix")
        summary = SnapshotSummary(**counts)
        if summary.is_new or not target.is_file():
            temporary.replace(target)
        return summary
    finally:
        temporary.unlink(missing_ok=True)


def local_copy(kind: str, path: str, snapshot: Path, cache: Path) -> Path:
    """Fetch what a snapshot lists and the cache lacks, and return the local path in place of `corpus.path`.

    Args:
        kind: `corpus.kind`.
        path: `corpus.path`, an S3 URI.
        snapshot: the file of `write_snapshot`.
        cache: folder of the cache. Afterwards it contains the objects of this snapshot and no other.

    Raises:
        CorpusError: the snapshot is missing, invalid or of another location.
        StorageError: an object has changed since it was listed, or cannot be fetched; what is complete stays.
    """
    root = source_root(kind, path)
    if not snapshot.is_file():
        raise CorpusError("the source has not been listed", field="corpus.path", value=path, next_step=_STEP)
    if _header(snapshot) != {"bucket": root.bucket, "prefix": root.prefix}:
        raise CorpusError(f"{snapshot.name} lists another source", field="corpus.path", value=path, next_step=_STEP)
    objects = cache / _OBJECTS
    _fetch_missing(root, snapshot, objects)
    names = _link(root, snapshot, objects, cache / _TREE)
    for found in objects.glob("*/*"):
        if found.name not in names:
            found.unlink()
    local = cache / _TREE
    return local / PurePosixPath(parse_uri(path).prefix).name if kind == "manifest" else local


def _fetch_missing(root: Location, snapshot: Path, objects: Path) -> None:
    def missing() -> Iterator[StoredObject]:
        return (item for item in _items(snapshot) if not _place(objects, root, item).is_file())

    count = sum(1 for _ in missing())
    if not count:
        return
    with ProgressBar(total=count, desc=f"fetch {root.uri}", unit="object", mininterval=0.5) as bar:
        wanted = ((item, _place(objects, root, item)) for item in missing())
        fetch_all(open_client(), root.bucket, wanted, done=lambda _: bar.update())


def _link(root: Location, snapshot: Path, objects: Path, tree: Path) -> set[str]:
    """Make the tree of the snapshot anew from links; return the names of its objects in the cache."""
    shutil.rmtree(tree, ignore_errors=True)
    names = set()
    for item in _items(snapshot):
        source, target = _place(objects, root, item), tree / _below(item.key, root)
        names.add(source.name)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            _link_or_copy(source, target)
        except (FileExistsError, NotADirectoryError) as error:
            raise CorpusError("a key is also the folder of another one", field="corpus.path", value=item.key) from error
    return names


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except PermissionError:
        # A file system without links.
        shutil.copyfile(source, target)


def _place(objects: Path, root: Location, item: StoredObject) -> Path:
    name = sha256_bytes("\0".join((root.bucket, item.key, item.etag)).encode())
    return objects / name[:2] / name


def _below(key: str, root: Location) -> str:
    return key[len(root.prefix) + 1 :] if root.prefix else key


def _check_key(item: StoredObject, root: Location) -> None:
    """Refuse a key that is no path below a folder."""
    parts = _below(item.key, root).split("/")
    if any(part in ("", ".", "..") or "\0" in part or len(part.encode()) > 255 for part in parts):
        raise CorpusError(
            "a key cannot be a path below a folder", field="corpus.path", value=item.key,
            allowed="names of 1 to 255 bytes with / between them, none of which is . or ..", next_step="rename the object",
        )  # fmt: skip


def _items(snapshot: Path) -> Iterator[StoredObject]:
    for row in _rows(snapshot):
        try:
            yield StoredObject(str(row["key"]), int(row["size"]), str(row["etag"]))
        except (KeyError, ValueError) as error:
            raise CorpusError("a line of the snapshot is invalid", field=str(snapshot), value=str(row)[:80], next_step=_STEP) from error


def _rows(snapshot: Path) -> Iterator[dict[str, Any]]:
    """Yield the lines of a snapshot after its header."""
    with snapshot.open("rb") as stream:
        for line in itertools.islice(stream, 1, None):
            yield _parsed(line, snapshot)


def _items_before(snapshot: Path, root: Location) -> Iterator[StoredObject]:
    """Return the items of an earlier snapshot of the same location; none if there is no valid one."""
    try:
        same = _header(snapshot) == {"bucket": root.bucket, "prefix": root.prefix}
        if same:
            for _ in _items(snapshot):
                pass
    except (FileNotFoundError, CorpusError):
        return iter(())
    return _items(snapshot) if same else iter(())


def _header(snapshot: Path) -> dict[str, Any]:
    with snapshot.open("rb") as stream:
        return _parsed(stream.readline(), snapshot)


def _aligned(new: Iterator[StoredObject], old: Iterator[StoredObject]) -> Iterator[tuple[StoredObject | None, StoredObject | None]]:
    """Yield objects of equal keys together, others alone; both are in the order of their keys (code points)."""
    left, right = next(new, None), next(old, None)
    while left is not None or right is not None:
        if right is None or (left is not None and left.key < right.key):
            yield left, None
            left = next(new, None)
        elif left is None or right.key < left.key:
            yield None, right
            right = next(old, None)
        else:
            yield left, right
            left, right = next(new, None), next(old, None)


def _line(row: Mapping[str, Any]) -> bytes:
    return (json.dumps(row, ensure_ascii=False) + "\n").encode()


def _parsed(line: bytes, snapshot: Path) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise CorpusError("a line of the snapshot is not JSON", field=str(snapshot), value=repr(line[:80]), next_step=_STEP) from error
    if not isinstance(row, dict):
        raise CorpusError("a line of the snapshot is not an object", field=str(snapshot), value=repr(line[:80]), next_step=_STEP)
    return row
