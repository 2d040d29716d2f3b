"""Errors of an upload to the hub as one message each. No message contains a token."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from coat_core.errors import CheckpointError, CoatError, HubUnreachableError

FIELD = "--push-to"
LOG_IN = "log in with a token that may write: hf auth login, or set HF_TOKEN"
_BUSY = (429, 500, 502, 503, 504)


def hub_error(message: str, repository: str, next_step: str, *, allowed: str | None = None, field: str = FIELD) -> CheckpointError:
    """Return an error about a repository."""
    return CheckpointError(message, field=field, value=repository, allowed=allowed, next_step=next_step)


@contextmanager
def explained(repository: str) -> Iterator[None]:
    """Turn errors of the hub's library within the context into errors of this project.

    Args:
        repository: id of the repository, for the message.

    Raises:
        HubUnreachableError: the hub cannot be reached or is too busy; the same command may succeed later.
        CheckpointError: the hub refused a request.
    """
    from huggingface_hub import errors

    try:
        yield
    except CoatError:
        raise
    except errors.LocalTokenNotFoundError as error:
        raise no_token(repository) from error
    except errors.OfflineModeIsEnabled as error:
        raise offline(repository) from error
    except (errors.HfHubHTTPError, RuntimeError) as error:
        # A refusal of one large file is the cause of a RuntimeError; so is a lost connection, and the storage client, in Rust, raises one.
        refusal = error if isinstance(error, errors.HfHubHTTPError) else error.__cause__
        if isinstance(refusal, errors.HfHubHTTPError):
            raise _of_status(refusal, repository) from error
        raise _unreachable(refusal or error, repository) from error
    except ValueError as error:
        # The hub's validation of the model card, before anything is uploaded; or an id that it does not allow.
        raise hub_error(f"the hub refuses the upload: {_line(error)}", repository, "correct the id or the parameter it names") from error
    except (errors.HTTPError, errors.XetDownloadError, OSError) as error:  # type: ignore[attr-defined]
        raise _unreachable(error, repository) from error


def no_token(repository: str) -> CheckpointError:
    """Return the error of a host on which nobody is logged in."""
    return hub_error("there is no token for the hub", repository, LOG_IN, field="HF_TOKEN")


def offline(repository: str) -> CheckpointError:
    """Return the error of a host that is set not to use the hub."""
    return hub_error("HF_HUB_OFFLINE is set, so nothing can be uploaded", repository, "unset HF_HUB_OFFLINE", field="HF_HUB_OFFLINE")


def no_access(repository: str) -> CheckpointError:
    """Return the error of an account or a token that may not write."""
    return hub_error(
        "this account may not write to the repository", repository,
        "name a repository of your own, or use a token with write access to it: hf auth login, or HF_TOKEN",
    )  # fmt: skip


def _of_status(error: Any, repository: str) -> CheckpointError:
    status = error.response.status_code
    if status == 401:
        return hub_error("the hub does not accept the token", repository, LOG_IN, field="HF_TOKEN")
    if status in (403, 404):
        return no_access(repository)
    if status in (409, 412):
        return hub_error("the repository was changed at the same time", repository, "run the same command again")
    if status == 402:
        return hub_error("the account has no space for these files", repository, "free space in the account, or use another one")
    if status in _BUSY:
        return HubUnreachableError(f"the hub is too busy ({status})", field=FIELD, value=repository, next_step="try again later")
    return hub_error(f"the hub refused a request ({status}): {_line(error)}", repository, "correct what it names")


def _unreachable(error: BaseException, repository: str) -> HubUnreachableError:
    return HubUnreachableError(
        f"the hub cannot be reached ({type(error).__name__})", field=FIELD, value=repository,
        next_step="check the network and HF_ENDPOINT, then run the same command again; no revision is visible until all files are there",
    )  # fmt: skip


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
