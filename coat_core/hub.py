"""Checkpoints by hub id and commit, or by folder: where their files are on this disk.

A hub id is looked up in the local cache first, and a commit that is there whole costs no network call. Only what loading reads is
fetched: configuration, tokenizer, front end, and the weights as safetensors (or, where a repository has none, as `.bin`, which
transformers reads with `weights_only`).
"""

from __future__ import annotations

import errno
import json
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from coat_core.errors import CheckpointError, HubUnreachableError
from coat_core.settings.base import is_commit

SMALL_FILES = ("*.json", "*.txt", "*.jinja", "*.model", "LICENSE*", "NOTICE*")
"""Configuration, vocabulary, template, front end, and the terms that an export hands on."""
INDEX, WHOLE = "model.safetensors.index.json", "model.safetensors"
_BIN_INDEX, _BIN = "pytorch_model.bin.index.json", "pytorch_model.bin"
HEADROOM_BYTES = 1 << 30
"""What must stay free on the disk beside a download."""


def checkpoint_folder(
    source: str, revision: str | None, *, field: str, patterns: Sequence[str] = SMALL_FILES, allow_moving: bool = False, prefix: str = ""
) -> Path:
    """Return the folder with a checkpoint's files, fetched where they are not on this disk yet.

    Args:
        source: a folder, or a hub id (`owner/name`).
        revision: the commit of the hub repository; not used for a folder.
        field: the parameter that named it, for messages.
        patterns: which files besides the weights.
        allow_moving: whether the revision may be a branch or a tag.
        prefix: only shards that hold tensors whose names begin so (a checkpoint of several models: one of them).

    Raises:
        HubUnreachableError: the hub cannot be reached, and not everything is cached.
        CheckpointError: no such folder or repository, no commit named, a gated repository, a missing revision, a full disk.
    """
    if Path(source).is_dir():
        return Path(source)
    where = _Place(source, _checked_revision(source, revision, field, allow_moving), field)
    cached = where.cached(prefix)
    if cached is not None and is_commit(where.revision):
        return cached
    try:
        small = where.fetch([*patterns, INDEX, _BIN_INDEX])
        return where.fetch([*patterns, *weight_files(small, prefix, where.files)])
    except HubUnreachableError:
        if cached is None:
            raise
        return cached


def free_bytes(folder: Path) -> int:
    """Return the free bytes of the disk that a folder, or the nearest one above it that is there, stands on."""
    place = next(place for place in (folder.resolve(), *folder.resolve().parents) if place.exists())
    return shutil.disk_usage(place).free


def _checked_revision(source: str, revision: str | None, field: str, allow_moving: bool) -> str:
    parts = source.split("/")
    if len(parts) != 2 or not all(parts) or source[0] in ".~":
        raise CheckpointError(
            "no such folder, and no hub id either", field=field, value=source, allowed="a folder, or owner/name",
            next_step="mend the path; it is relative to the workspace",
        )  # fmt: skip
    if revision is None:
        raise CheckpointError(
            f"{source} is no folder here, and a hub id needs a commit", field=f"{field.rpartition('.')[0]}.revision", value=None,
            allowed="40 hexadecimal digits", next_step="take the commit from the repository's history page (Files and versions)",
        )  # fmt: skip
    if not allow_moving and not is_commit(revision):
        raise CheckpointError(
            "the revision may move", field=f"{field.rpartition('.')[0]}.revision", value=revision, allowed="40 hexadecimal digits",
            next_step="name a commit, or say allow_moving_revision: true",
        )  # fmt: skip
    return revision


def weight_files(folder: Path, prefix: str = "", listed: Callable[[], list[str]] = list) -> list[str]:
    """Return the names of the files with weights: those of an index, a single file, or the older format.

    Args:
        folder: with the index, if there is one; the files themselves may be missing.
        prefix: only files with tensors whose names begin so.
        listed: names of files that count as if they were there.
    """
    for index, single in ((INDEX, WHOLE), (_BIN_INDEX, _BIN)):
        if (folder / index).is_file():
            names: dict[str, str] = json.loads((folder / index).read_text())["weight_map"]
            return sorted({file for tensor, file in names.items() if tensor.startswith(prefix)} or set(names.values()))
        if (folder / single).exists() or single in listed():
            return [single]
    return []


class _Place:
    """One revision of one repository."""

    def __init__(self, source: str, revision: str, field: str) -> None:
        self.source, self.revision, self.field = source, revision, field

    def cached(self, prefix: str) -> Path | None:
        """Return the cached snapshot if what loading needs is there whole."""
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import LocalEntryNotFoundError

        try:
            folder = Path(snapshot_download(self.source, revision=self.revision, local_files_only=True, allow_patterns=["config.json"]))
        except (LocalEntryNotFoundError, OSError):
            return None
        weights = weight_files(folder, prefix)
        return folder if weights and all((folder / name).is_file() for name in ("config.json", *weights)) else None

    def files(self) -> list[str]:
        """Return the names of the repository's files."""
        from huggingface_hub import HfApi

        with self._errors():
            return list(HfApi().list_repo_files(self.source, revision=self.revision))

    def fetch(self, patterns: Sequence[str]) -> Path:
        """Download what is not cached of the files that match, if the disk has room for it."""
        from huggingface_hub import constants, snapshot_download

        with self._errors():
            plan: Any = snapshot_download(self.source, revision=self.revision, allow_patterns=list(patterns), dry_run=True)
            wanted = sum(file.file_size or 0 for file in plan if file.will_download)
            free = free_bytes(Path(constants.HF_HUB_CACHE))
            if wanted and wanted + HEADROOM_BYTES > free:
                raise self._full(f"{wanted / 1e9:.1f} GB are to be fetched, {free / 1e9:.1f} GB are free")
            return Path(snapshot_download(self.source, revision=self.revision, allow_patterns=list(patterns)))

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Turn what the hub's library raises into what a user can mend."""
        from huggingface_hub.errors import DryRunError, HTTPError, XetDownloadError  # type: ignore[attr-defined]

        try:
            yield
        # A connection that breaks is an HTTPError; what the hub's storage client, written in Rust, meets is a RuntimeError.
        except (OSError, HTTPError, XetDownloadError, RuntimeError) as error:
            # A dry run names its own failure only as the cause.
            cause = error.__cause__ if isinstance(error, DryRunError) and isinstance(error.__cause__, Exception) else error
            raise self._explained(cause) from error

    def _explained(self, error: Exception) -> CheckpointError:
        from huggingface_hub import errors

        shown = f"{self.source} at {self.revision}"
        if isinstance(error, errors.GatedRepoError):
            return CheckpointError(
                "the repository is gated: its owner asks for consent first", field=self.field, value=shown,
                next_step=f"accept the terms on the page of {self.source}, then log in on this host: hf auth login (or HF_TOKEN)",
            )  # fmt: skip
        if isinstance(error, errors.RepositoryNotFoundError):
            return CheckpointError(
                "the hub knows no such repository, or it is private", field=self.field, value=shown,
                next_step="mend the id, or log in with an account that may read it: hf auth login (or HF_TOKEN)",
            )  # fmt: skip
        if isinstance(error, errors.RevisionNotFoundError):
            return CheckpointError(
                "the repository has no such revision", field=f"{self.field.rpartition('.')[0]}.revision", value=shown,
                next_step="take the commit from the repository's history page (Files and versions)",
            )  # fmt: skip
        said, number = str(error).strip().partition("\n")[0], getattr(error, "errno", None)
        if number in (errno.ENOSPC, errno.EDQUOT) or re.search(r"no space left|quota exceeded", said, re.IGNORECASE):
            return self._full(said)
        if number in (errno.EACCES, errno.EPERM, errno.EROFS) or re.search(r"permission denied|read-only file", said, re.IGNORECASE):
            return CheckpointError(
                f"the hub's cache cannot be written: {said}", field="HF_HOME", value=shown,
                next_step="give this user the folder, or set HF_HOME to one of their own",
            )  # fmt: skip
        return self._unreachable(error, said)

    def _unreachable(self, error: Exception, said: str) -> HubUnreachableError:
        from huggingface_hub import constants

        offline = " (HF_HUB_OFFLINE is set)" if constants.HF_HUB_OFFLINE else ""
        return HubUnreachableError(
            f"the hub cannot be reached{offline}, and the checkpoint is not whole in {constants.HF_HUB_CACHE}: "
            f"{type(error).__name__}: {said}",
            field=self.field, value=f"{self.source} at {self.revision}",
            next_step=f"hf download {self.source} --revision {self.revision} where there is a network, then copy that cache here",
        )  # fmt: skip

    def _full(self, found: str) -> CheckpointError:
        from huggingface_hub import constants

        return CheckpointError(
            f"the disk is too small for the checkpoint: {found}", field=self.field, value=f"{self.source} in {constants.HF_HUB_CACHE}",
            next_step="free space (`hf cache` lists what is kept), or set HF_HOME to a larger disk",
        )  # fmt: skip
