"""A full disk, whatever reports it (the operating system, SQLite, safetensors, DVC), as one error with the free space."""

from __future__ import annotations

import errno
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from coat_core.errors import CoatError, Interrupted

_NUMBERS = (errno.ENOSPC, errno.EDQUOT)
_TEXT = re.compile(r"no space left on device|disk quota exceeded|database or disk is full|\(os error (28|122)\)", re.IGNORECASE)
"""What libraries say that report no number: SQLite and what is above it, Rust's, DVC's output."""
_NO_LINK = "No possible cache link types"
"""What DVC says if it cannot copy a file out of its cache, whatever the cause."""
NEARLY_FULL_BYTES = 1 << 20
_EXPLAINED = ("the disk is full", "the disk is too small")
"""Errors with this text already say what is full."""


class DiskFullError(CoatError):
    """A disk or a quota is full; the same command continues once there is room."""

    retryable = True


def full_disk(error: BaseException, workspace: Path = Path()) -> DiskFullError | None:
    """Return the error for users if a full disk is the cause of an error, also where another error was raised from it.

    Args:
        error: any error.
        workspace: folder that is written, for an error that names no file.

    Returns:
        None: the cause is another one, or the error says it already.
    """
    chain = list(_chain(error))
    if isinstance(error, Interrupted) or any(isinstance(part, CoatError) and _is_explained(str(part)) for part in chain):
        return None
    if not any(_is_full(part) for part in chain):
        return None
    named = next((part.filename for part in chain if isinstance(part, OSError) and _is_full(part) and _is_path(part.filename)), None)
    return _made([Path(os.fsdecode(named))] if named is not None else [workspace, Path(tempfile.gettempdir())])


def full_disk_in(text: str, workspace: Path) -> DiskFullError | None:
    """Return the error for users if the output of another program says that a disk is full; None if it does not."""
    if _TEXT.search(text):
        return _made([workspace, Path(tempfile.gettempdir())])
    return nearly_full(workspace) if _NO_LINK in text else None


def nearly_full(folder: Path) -> DiskFullError | None:
    """Return the error for users if less than 1 MiB is free on the disk of a folder: for a failure that does not name its cause."""
    return _made([folder]) if shutil.disk_usage(_existing(folder)).free < NEARLY_FULL_BYTES else None


def _made(places: list[Path]) -> DiskFullError:
    """Return the error for files or folders, of which it names one on each disk."""
    disks: dict[int, Path] = {}
    for place in places:
        disks.setdefault(_existing(place).stat().st_dev, place.absolute())
    used = {place: shutil.disk_usage(_existing(place)) for place in disks.values()}
    rooms = [f"{_size(usage.free)} of {_size(usage.total)} are free at {place}" for place, usage in used.items()]
    return DiskFullError(
        f"{_EXPLAINED[0]}: {', '.join(rooms)}",
        field="disk",
        value=str(next(iter(used))),
        next_step="free space there (`coat prune` lists what is no longer needed), then run the same command again: it continues",
    )


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an error, and those from which it was raised."""
    seen, part = set[int](), error
    while part is not None and id(part) not in seen:
        seen.add(id(part))
        yield part
        part = part.__cause__ or (None if part.__suppress_context__ else part.__context__)  # type: ignore[assignment]


def _is_full(error: BaseException) -> bool:
    return (isinstance(error, OSError) and error.errno in _NUMBERS) or bool(_TEXT.search(str(error)))


def _is_explained(text: str) -> bool:
    return any(part in text for part in _EXPLAINED)


def _is_path(name: object) -> bool:
    return isinstance(name, str | bytes | os.PathLike)


def _existing(place: Path) -> Path:
    place = place.absolute()
    return next(folder for folder in (place, *place.parents) if folder.exists())


def _size(count: int) -> str:
    return f"{count / 1e6:,.1f} MB" if count < 1e9 else f"{count / 1e9:,.1f} GB"
