"""What is left over in a workspace: scratch of stages that were never resumed, logs, and files that a kill left half-written."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

SCRATCH = Path(".scratch")
_RESULTS = ("data", "features", "audio", "models", "runs", "responses", "evaluation", "latency", "report")
_UNFINISHED = re.compile(r"\..+\.[a-z0-9_]{8}")
"""The temporary names of `coat_core.storage`."""


@dataclass(frozen=True)
class Leftover:
    """A file or folder that nothing needs.

    Attributes:
        path: its path.
        what: what it is.
        changed: time of the last change in it.
        size: bytes.
    """

    path: Path
    what: str
    changed: datetime
    size: int


def leftovers(workspace: Path, before: datetime) -> list[Leftover]:
    """Return what is left over and was not changed since a time. Call it while no stage runs.

    Stages that were not resumed since then, decoded audio that was not read since then, logs of stages, and unfinished copies. Records
    of Prefect, objects of a bucket and judgements are not left over.
    """
    found = [_leftover(path, what, before) for path, what in _candidates(workspace)]
    return [item for item in found if item is not None and item.changed <= before]


def remove(item: Leftover) -> None:
    """Remove a file or folder."""
    if item.path.is_dir() and not item.path.is_symlink():
        shutil.rmtree(item.path, ignore_errors=True)
    else:
        item.path.unlink(missing_ok=True)


def _candidates(workspace: Path) -> Iterator[tuple[Path, str]]:
    scratch = workspace / SCRATCH
    for mark in sorted(scratch.glob("*/stage.txt")):
        yield mark.parent, f"unfinished {mark.read_text().strip()}"
    for decoder in sorted(scratch.glob("waveforms/*/")):
        yield decoder, "decoded audio"
    for log in sorted(scratch.glob("logs/*.log")):
        yield log, f"log of {log.stem}"
    for path in sorted(workspace.glob(".*.*")):
        # The folder can be a user's repository: only copies of files that are here.
        if _UNFINISHED.fullmatch(path.name) and (workspace / path.name[1:-9]).is_file():
            yield path, "unfinished copy"
    for folder in (workspace / name for name in _RESULTS):
        yield from ((path, "unfinished copy") for path in _unfinished_below(folder))


def _unfinished_below(folder: Path) -> Iterator[Path]:
    """Yield unfinished copies below a folder, and nothing within them."""
    if folder.is_symlink() or not folder.is_dir():
        return
    for path in sorted(folder.iterdir()):
        if _UNFINISHED.fullmatch(path.name):
            yield path
        else:
            yield from _unfinished_below(path)


def _leftover(path: Path, what: str, before: datetime) -> Leftover | None:
    """Return a file or folder with its size; None if it has gone."""
    newest, size = 0.0, 0
    try:
        for file in [path, *(path.rglob("*") if path.is_dir() and not path.is_symlink() else ())]:
            status = file.lstat()
            newest = max(newest, status.st_mtime)
            size += status.st_size if not file.is_dir() else 0
    except FileNotFoundError:
        return None
    return Leftover(path, what, datetime.fromtimestamp(newest, before.tzinfo), size)
