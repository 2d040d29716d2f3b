"""Checkpoints by hub id and commit, or by folder: where their files are on this disk."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


def checkpoint_folder(
    source: str, revision: str | None, *, field: str, patterns: Sequence[str] = ("*",), allow_moving: bool = False
) -> Path:
    """Return the folder with a checkpoint's files (being written)."""
    raise NotImplementedError
