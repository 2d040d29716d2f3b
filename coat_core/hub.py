"""Local folders of checkpoints, given by folder or by hub id and commit.

A hub id is looked up in the local cache first; a completely cached commit needs no network call. Only the files that loading reads
are downloaded: configuration, tokenizer, front end, and the weights as safetensors (or, in a repository without safetensors, as
`.bin`, which transformers reads with `weights_only`).
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
"""Configuration, vocabulary, template, front end, and the licence files that an export copies."""
INDEX, WHOLE = "model.safetensors.index.json", "model.safetensors"
_BIN_INDEX, _BIN = "pytorch_model.bin.index.json", "pytorch_model.bin"
HEADROOM_BYTES = 1 << 30
"""Disk space that must remain free after a download."""


def checkpoint_folder(
    source: str, revision: str | None, *, field: str, patterns: Sequence[str] = SMALL_FILES, allow_moving: bool = False, prefix: str = ""
) -> Path:
    """Return the folder with a checkpoint's files; download those that are not on this disk.

    Args:
        source: a folder, or a hub id (`owner/name`).
        revision: the commit of the hub repository; ignored for a folder.
        field: the parameter with the source, for messages.
        patterns: glob patterns of the files to download in addition to the weights.
        allow_moving: whether the revision can be a branch or a tag.
        prefix: only shards with tensors whose names start with it are needed (one model of a checkpoint of several).

    Raises:
        HubUnreachableError: the hub cannot be reached, and the cache is incomplete.
        CheckpointError: no such folder or repository, no commit given, a gated repository, a missing revision, a full disk.
    """
    if Path(source).is_dir():
        return Path(source)
    repository = _Repository(source, _checked_revision(source, revision, field, allow_moving), field)
    cached = repository.cached(prefix)
    if cached is not None and is_commit(repository.revision):
        return cached
    try:
        small = repository.fetch([*patterns, INDEX, _BIN_INDEX])
        return repository.fetch([*patterns, *weight_files(small, prefix, repository.files)])
    except HubUnreachableError:
        if cached is None:
            raise
        return cached


def free_bytes(folder: Path) -> int:
    """Return the free bytes of the disk of a folder, or of its nearest existing parent."""
    existing = next(path for path in (folder.resolve(), *folder.resolve().parents) if path.exists())
    return shutil.disk_usage(existing).free


def _checked_revision(source: str, revision: str | None, field: str, allow_moving: bool) -> str:
    parts = source.split("/")
    if len(parts) != 2 or not all(parts) or source[0] in ".~":
        raise CheckpointError(
            "no such folder, and not a valid hub id", field=field, value=source, allowed="a folder, or owner/name",
            next_step="correct the path; it is relative to the workspace",
        )  # fmt: skip
    if revision is None:
        raise CheckpointError(
            f"{source} is not a local folder, and a hub id needs a commit", field=f"{field.rpartition('.')[0]}.revision", value=None,
            allowed="40 hexadecimal digits", next_step="copy the commit from the repository's history page (Files and versions)",
        )  # fmt: skip
    if not allow_moving and not is_commit(revision):
        raise CheckpointError(
            "the revision may move", field=f"{field.rpartition('.')[0]}.revision", value=revision, allowed="40 hexadecimal digits",
            next_step="use a commit, or set allow_moving_revision: true",
        )  # fmt: skip
    return revision


def weight_files(folder: Path, prefix: str = "", listed: Callable[[], list[str]] = list) -> list[str]:
    """Return the names of the weight files: those of an index, a single file, or the older format.

    Args:
        folder: the folder with the index, if there is an index; the weight files can be missing.
        prefix: only files with tensors whose names start with it are returned.
        listed: returns the names of further files that count as existing.
    """
    for index, single in ((INDEX, WHOLE), (_BIN_INDEX, _BIN)):
        if (folder / index).is_file():
            names: dict[str, str] = json.loads((folder / index).read_text())["weight_map"]
            return sorted({file for tensor, file in names.items() if tensor.startswith(prefix)} or set(names.values()))
        if (folder / single).exists() or single in listed():
            return [single]
    return []


class _Repository:
    """One revision of one repository on the hub."""

    def __init__(self, source: str, revision: str, field: str) -> None:
        self.source, self.revision, self.field = source, revision, field

    def cached(self, prefix: str) -> Path | None:
        """Return the cached snapshot; None unless it contains all files that loading needs."""
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
        """Download the files that match and are not cached, if the disk has enough space."""
        from huggingface_hub import constants, snapshot_download

        with self._errors():
            plan: Any = snapshot_download(self.source, revision=self.revision, allow_patterns=list(patterns), dry_run=True)
            size = sum(file.file_size or 0 for file in plan if file.will_download)
            free = free_bytes(Path(constants.HF_HUB_CACHE))
            if size and size + HEADROOM_BYTES > free:
                raise self._full(f"{size / 1e9:.1f} GB must be downloaded, {free / 1e9:.1f} GB are free")
            return Path(snapshot_download(self.source, revision=self.revision, allow_patterns=list(patterns)))

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Replace errors of the hub's library by errors with a next step for the user."""
        from huggingface_hub.errors import DryRunError, HTTPError, XetDownloadError  # type: ignore[attr-defined]

        try:
            yield
        # A broken connection raises HTTPError; the hub's storage client, written in Rust, raises RuntimeError.
        except (OSError, HTTPError, XetDownloadError, RuntimeError) as error:
            # The error of a dry run contains the reason only as its cause.
            cause = error.__cause__ if isinstance(error, DryRunError) and isinstance(error.__cause__, Exception) else error
            raise self._explained(cause) from error

    def _explained(self, error: Exception) -> CheckpointError:
        from huggingface_hub import errors

        shown = f"{self.source} at {self.revision}"
        if isinstance(error, errors.GatedRepoError):
            return CheckpointError(
                "the repository is gated: its owner requires consent", field=self.field, value=shown,
                next_step=f"accept the terms on the page of {self.source}, then log in on this host: hf auth login (or HF_TOKEN)",
            )  # fmt: skip
        if isinstance(error, errors.RepositoryNotFoundError):
            return CheckpointError(
                "there is no such repository on the hub, or it is private", field=self.field, value=shown,
                next_step="correct the id, or log in with an account that can read it: hf auth login (or HF_TOKEN)",
            )  # fmt: skip
        if isinstance(error, errors.RevisionNotFoundError):
            return CheckpointError(
                "the repository has no such revision", field=f"{self.field.rpartition('.')[0]}.revision", value=shown,
                next_step="copy the commit from the repository's history page (Files and versions)",
            )  # fmt: skip
        message, number = str(error).strip().partition("\n")[0], getattr(error, "errno", None)
        if number in (errno.ENOSPC, errno.EDQUOT) or re.search(r"no space left|quota exceeded", message, re.IGNORECASE):
            return self._full(message)
        if number in (errno.EACCES, errno.EPERM, errno.EROFS) or re.search(r"permission denied|read-only file", message, re.IGNORECASE):
            return CheckpointError(
                f"the hub's cache cannot be written: {message}", field="HF_HOME", value=shown,
                next_step="give this user write access to the folder, or set HF_HOME to another one",
            )  # fmt: skip
        return self._unreachable(error, message)

    def _unreachable(self, error: Exception, message: str) -> HubUnreachableError:
        from huggingface_hub import constants

        offline = " (HF_HUB_OFFLINE is set)" if constants.HF_HUB_OFFLINE else ""
        return HubUnreachableError(
            f"the hub cannot be reached{offline}, and the checkpoint is not complete in {constants.HF_HUB_CACHE}: "
            f"{type(error).__name__}: {message}",
            field=self.field, value=f"{self.source} at {self.revision}",
            next_step=f"run hf download {self.source} --revision {self.revision} on a host with a network, then copy its cache here",
        )  # fmt: skip

    def _full(self, reason: str) -> CheckpointError:
        from huggingface_hub import constants

        return CheckpointError(
            f"the disk is too small for the checkpoint: {reason}", field=self.field, value=f"{self.source} in {constants.HF_HUB_CACHE}",
            next_step="free space (`hf cache` lists the cached files), or set HF_HOME to a folder on a larger disk",
        )  # fmt: skip
