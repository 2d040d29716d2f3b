"""A kill in the middle of a write, or before the removal of a file, in the extraction of a store."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from coat_core.audio_store import extraction
from coat_core.experts.store import shards
from coat_core.shards import update


class Killed(BaseException):
    """The process ends here: no handler of the code under test catches it."""


@contextmanager
def killed_at(at: int, *, removals: bool = False) -> Iterator[None]:
    """Raise `Killed` in the middle of write number `at` (1 = first) of a store's files; half a temporary file is left.

    Args:
        at: the number.
        removals: whether removals of shards and indices count too; the kill comes before the removal.
    """
    real, unlink, count = update.write_bytes, Path.unlink, 0

    def next_is_last() -> bool:
        nonlocal count
        count += 1
        return count == at

    def write(path: Path, data: bytes) -> None:
        if next_is_last():
            path.with_name(f".{path.name}.abc123").write_bytes(data[: len(data) // 2])
            raise Killed
        real(path, data)

    def remove(path: Path, **options: Any) -> None:
        if path.name.startswith(("shard-", "index.")) and path.exists() and next_is_last():
            raise Killed
        unlink(path, **options)

    with pytest.MonkeyPatch.context() as patch:
        for module in (update, shards, extraction):
            patch.setattr(module, "write_bytes", write)
        if removals:
            patch.setattr(Path, "unlink", remove)
        yield
