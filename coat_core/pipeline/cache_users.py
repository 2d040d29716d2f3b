"""Which workspaces use a DVC cache: each leaves a file with its path in the cache, since DVC itself does not record it.

Without it, the collection of unused objects (`coat prune`) would not know of a workspace in another place.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from coat_core import storage

FOLDER = "coat-workspaces"


def cache_folder(config: Mapping[str, str], workspace: Path) -> Path:
    """Return the folder of the DVC cache.

    Args:
        config: DVC's configuration of the workspace by dotted name.
        workspace: the workspace; a relative path is one from its folder `.dvc`.
    """
    return (workspace.resolve() / ".dvc" / config.get("cache.dir", "cache")).resolve()


def record_user(cache: Path, workspace: Path) -> None:
    """Record that a workspace uses a cache; a cache that cannot be written has no new objects of it either."""
    path = str(workspace.resolve())
    file = cache / FOLDER / f"{storage.sha256_json(path)[:16]}.txt"
    with suppress(OSError):
        if not file.is_file():
            storage.write_text(file, path + "\n")


def recorded_users(cache: Path) -> list[Path]:
    """Return the recorded workspaces that still exist, and forget the others."""
    found = []
    for file in sorted((cache / FOLDER).glob("*.txt")):
        folder = Path(file.read_text().strip())
        if (folder / "dvc.yaml").is_file():
            found.append(folder)
        else:
            file.unlink(missing_ok=True)
    return found
