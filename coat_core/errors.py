"""Errors that a user can meet: each names the field, its value, what is allowed and the next step."""

from __future__ import annotations

from collections.abc import Sequence


class CoatError(ValueError):
    """A mistake that a user can mend.

    Args:
        message: what is wrong, in one sentence.
        field: the name of what was wrong (a parameter path, a manifest column, a file).
        value: what stood there.
        allowed: what may stand there.
        next_step: what to do now.

    `retryable` says whether the same call may succeed when it is made again; the flow retries only then.
    """

    retryable = False

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
    """`params.yaml` does not hold; the message lists every mistake at once."""


class CorpusError(CoatError):
    """A manifest, an index or a corpus folder cannot be used."""


class AudioError(CoatError):
    """An audio file cannot be decoded, or is not what its manifest row says."""


class ContractError(CoatError):
    """More rows broke the data contract than params allow."""


class ExpertError(CoatError):
    """An expert's features or its store cannot be used."""


class CheckpointError(CoatError):
    """A checkpoint's files cannot be had: no such repository or revision, no consent, no disk."""


class HubUnreachableError(CheckpointError):
    """The hub does not answer and the checkpoint is not cached; later it may."""

    retryable = True


class DeviceError(CoatError):
    """Params name a device that is not here."""


class OutOfMemoryError(CoatError):
    """The device has too little memory for what params ask of it."""


class BackboneError(CoatError):
    """A base checkpoint, its tokenizer or a batch made for it cannot be used."""


class TrainingError(CoatError):
    """Training cannot start or go on."""


class NonFiniteError(TrainingError):
    """A loss or a gradient is not finite; the optimizer step was not taken."""


class ReleaseError(CoatError):
    """A release folder is not what it should be."""


class EvaluationError(CoatError):
    """Responses or scores cannot be made or read."""


class RegistryError(CoatError):
    """The model registry refused, or does not hold what was asked for."""


class StageError(CoatError):
    """A stage of the chain failed."""


class BusyError(CoatError):
    """Somebody else holds the workspace."""


class Interrupted(CoatError):  # noqa: N818 - it is not an error of the user's
    """The run was stopped from outside; it can be resumed by the same command."""

    retryable = True
