"""Errors for users: each names the field, its value, the allowed values and the next step."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from pathlib import Path


class CoatError(ValueError):
    """An error that a user can fix.

    Args:
        message: what is wrong, in one sentence.
        field: the name of the invalid field (a parameter path, a manifest column, a file).
        value: its value.
        allowed: the allowed values.
        next_step: what to do next.

    `retryable`: whether the same call may succeed later. The flow retries only then.
    """

    retryable = False
    exit_status = 1
    """Exit status of the command that fails with it."""

    def __init__(
        self,
        message: str,
        *,
        field: str | None = None,
        value: object = None,
        allowed: Sequence[object] | str | None = None,
        next_step: str = "",
    ) -> None:
        parts = [message]
        if field is not None:
            parts.append(f"field: {field}")
        if value is not None:
            parts.append(f"value: {value!r}")
        if allowed is not None:
            parts.append("allowed: " + (allowed if isinstance(allowed, str) else ", ".join(map(str, allowed))))
        if next_step:
            parts.append(f"next step: {next_step}")
        super().__init__("; ".join(parts))
        self.field, self.value, self.allowed, self.next_step = field, value, allowed, next_step


class SettingsError(CoatError):
    """`params.yaml` is invalid; the message lists every mistake at once."""


class StorageError(CoatError):
    """An S3 bucket or object cannot be used: credentials, permissions, region, names, or its content has changed."""


class StorageUnavailableError(StorageError):
    """The S3 server cannot be reached, is too busy, or sends incomplete data."""

    retryable = True


class CorpusError(CoatError):
    """A manifest, an index or a corpus folder cannot be used."""


class AudioError(CoatError):
    """An audio file cannot be decoded, or differs from its manifest row."""


class ContractError(CoatError):
    """More rows violate the data contract than params allow."""


class ExpertError(CoatError):
    """An expert's features or its store cannot be used."""


class CheckpointError(CoatError):
    """A checkpoint's files are unavailable: no such repository or revision, terms not accepted, or no disk space."""


class HubUnreachableError(CheckpointError):
    """The hub is unreachable and the checkpoint is not cached."""

    retryable = True


class DeviceError(CoatError):
    """Params name a device that this machine does not have."""


class OutOfMemoryError(CoatError):
    """The device has too little memory for these params."""


class BackboneError(CoatError):
    """A base checkpoint, its tokenizer or a batch for it cannot be used."""


class AudioStoreError(CoatError):
    """The stored outputs of an audio tower cannot be used."""


class TrainingError(CoatError):
    """Training cannot start or continue."""


class NonFiniteError(TrainingError):
    """A loss or a gradient is not finite; the optimizer step was not taken."""


class ReleaseError(CoatError):
    """A release folder is invalid."""


class EvaluationError(CoatError):
    """Responses or scores cannot be generated or read."""


class RegistryError(CoatError):
    """The model registry refused a change, or does not contain the requested model."""


class RegistryRefusedError(RegistryError):
    """The tracking server does not know the account, or does not allow it this request."""


class RegistryUnavailableError(RegistryError):
    """The tracking server cannot be reached, or is too busy."""

    retryable = True


class StageError(CoatError):
    """A stage of the pipeline failed."""


class BusyError(CoatError):
    """Another run uses the workspace."""


class Interrupted(CoatError):  # noqa: N818 - not an error of the user
    """The run was stopped from outside; the same command resumes it."""

    retryable = True
    exit_status = 130


_NEXT_STEPS = {
    errno.EACCES: "give this user access, or use another folder",
    errno.EPERM: "give this user access, or use another folder",
    errno.EROFS: "use a folder that can be written",
    errno.ENOSPC: "free space on the disk, or use a folder on another one",
    errno.EDQUOT: "free space in your quota, or use a folder on another disk",
    errno.ENOENT: "correct the path; it is relative to the working folder",
    errno.EISDIR: "name a file, not a folder",
    errno.ENOTDIR: "name a folder: a part of the path is a file",
    errno.EEXIST: "choose a name that is not in use",
    errno.ENOTEMPTY: "choose a name that is not in use",
    errno.ENAMETOOLONG: "use a shorter path",
    errno.ELOOP: "remove the loop of symbolic links",
    errno.EXDEV: "use a folder on the same disk",
    errno.EIO: "check the disk",
}
"""Errors of the operating system that a user can fix, and how."""


def file_problem(error: OSError) -> str:
    """Return one line about an error of the operating system that a user can fix; empty for every other one."""
    step = _NEXT_STEPS.get(error.errno or 0)
    if step is None:
        return ""
    names = [os.fsdecode(name) for name in (error.filename, error.filename2) if isinstance(name, str | bytes | os.PathLike)]
    field, value = ("file", names[0]) if names else ("working folder", str(Path.cwd()))
    return f"{os.strerror(error.errno or 0)}; field: {field}; value: {value!r}; next step: {step}"
