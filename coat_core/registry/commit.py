"""The commit of the code."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

COMMIT = "COAT_GIT_COMMIT"
"""Variable with the commit of code that is in no repository, as in an image; `-dirty` at its end: with uncommitted changes."""
UNKNOWN = "unknown"
_DIRTY = "-dirty"


def commit_of(workspace: Path) -> tuple[str, str]:
    """Return the commit and the dirty flag of the repository that contains the workspace; without one, those in `COAT_GIT_COMMIT`."""

    def call(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", str(workspace), *arguments], check=True, capture_output=True, text=True, timeout=60
        ).stdout.strip()

    try:
        commit = call("rev-parse", "HEAD")
        changed = call("status", "--porcelain", "--untracked-files=no", "--", ":/", ":(exclude,top,glob)**/dvc.lock")
    except (OSError, subprocess.SubprocessError):
        return _stated_commit(os.environ.get(COMMIT, ""))
    return commit, "true" if changed else "false"


def _stated_commit(value: str) -> tuple[str, str]:
    if value in ("", UNKNOWN):
        return UNKNOWN, UNKNOWN
    return value.removesuffix(_DIRTY), "true" if value.endswith(_DIRTY) else "false"
