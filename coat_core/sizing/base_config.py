"""Where a published checkpoint's configuration comes from: a folder, the hub's cache, or what is written down in this package."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from coat_core.errors import CheckpointError
from coat_core.sizing.published import Published


def find_base(checkpoint: Published, base: str | None) -> tuple[Path | None, str]:
    """Return the folder whose configuration counts, and its name for people; None: the one written down here.

    Without `base` the cache is asked for the published commit. Nothing is ever downloaded.

    Args:
        checkpoint: the published one.
        base: a folder, or a hub id that the cache holds.

    Raises:
        CheckpointError: `base` is neither.
    """
    if base is None:
        cached = _cached(checkpoint.id, checkpoint.commit)
        return cached, f"{'the cached' if cached else 'the built-in'} configuration of {checkpoint.id} at {checkpoint.commit}"
    folder = Path(base)
    if folder.is_dir():
        return folder, f"the configuration in {folder}"
    cached = _cached(base, checkpoint.commit if base == checkpoint.id else "main")
    if cached is None:
        raise CheckpointError(
            "neither a folder nor in the hub's cache",
            field="--base",
            value=base,
            next_step="name a folder with a config.json, or leave --base out to take the built-in configuration",
        )
    return cached, f"the cached configuration of {base}"


def find_tokenizer(folder: Path | None) -> Any | None:
    """Return the tokenizer of a folder, if it holds one."""
    if folder is None or not (folder / "tokenizer_config.json").is_file():
        return None
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder, local_files_only=True)


def _cached(source: str, revision: str) -> Path | None:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(source, revision=revision, local_files_only=True, allow_patterns=["config.json"]))
    except (LocalEntryNotFoundError, HFValidationError, OSError):
        return None
    return folder if (folder / "config.json").is_file() else None
