"""Where the files of a benchmark are: a folder, or a data set on the hub."""

from __future__ import annotations

import re
from pathlib import Path

from coat_core.errors import EvaluationError

HUB = re.compile(r"([\w.-]+/[\w.-]+)@([0-9a-f]{40})")
"""`owner/name@commit`."""


def resolve(source: str, base: Path) -> str:
    """Return a source, whose folder is relative to another one, as a folder of the working folder; a data set on the hub as it is."""
    local = base / source
    return str(local) if local.is_dir() else source


def local_folder(source: str) -> Path:
    """Return the folder of a data set that `data_folder` has returned before; nothing is fetched.

    Raises:
        EvaluationError: no such folder, or the data set is not in the cache of the hub.
    """
    if Path(source).is_dir():
        return Path(source)
    match = HUB.fullmatch(source)
    if match is not None:
        from huggingface_hub import constants
        from huggingface_hub.file_download import repo_folder_name

        # `snapshot_download` refuses a snapshot of which not every file was fetched.
        stored = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=match[1], repo_type="dataset") / "snapshots" / match[2]
        if stored.is_dir():
            return stored
    raise EvaluationError(
        "no such folder, and not a data set in the cache of the hub",
        field="data",
        value=source,
        next_step="run `coat source`, then coat run",
    )
