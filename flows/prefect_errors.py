"""Errors of a Prefect server, or of the way to it, as one message each."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from coat_core.errors import CoatError, StageError
from coat_core.full_disk import nearly_full
from coat_core.registry.uris import portable

API_URL = "PREFECT_API_URL"
AUTH = "PREFECT_API_AUTH_STRING"


@contextmanager
def explained(home: Path | None = None) -> Iterator[None]:
    """Turn errors of Prefect's client within the block into errors of this project.

    Args:
        home: folder of the server's database, if the server is one of this workspace: its disk may be full.

    Raises:
        StageError: the server does not answer, refuses the credentials, or refuses a request.
        DiskFullError: the server failed, and its disk is full.
    """
    import httpx
    from prefect.exceptions import PrefectHTTPStatusError

    try:
        yield
    except PrefectHTTPStatusError as error:
        raise _of_status(error.response.status_code, home) from error
    except httpx.HTTPStatusError as error:
        raise _of_status(error.response.status_code, home) from error
    except httpx.TransportError as error:
        raise _unreachable() from error
    except RuntimeError as error:
        # What Prefect's client raises when it cannot connect.
        if "Failed to reach API" not in str(error):
            raise
        raise _unreachable() from error


def is_of_server(error: BaseException | None) -> bool:
    """Return whether an error is one that `explained` turns into a message."""
    import httpx
    from prefect.exceptions import PrefectHTTPStatusError

    return isinstance(error, PrefectHTTPStatusError | httpx.HTTPStatusError | httpx.TransportError)


def _of_status(status: int, home: Path | None) -> CoatError:
    if status in (401, 403):
        return StageError(
            "the Prefect server refused the credentials",
            field=API_URL,
            value=_server(),
            next_step=f"set {AUTH} to the server's USER:PASSWORD",
        )
    if status >= 500 and home is not None and (full := nearly_full(home)):
        return full
    return StageError(
        f"the Prefect server refused a request (status {status})", field=API_URL, value=_server(), next_step="read the server's log"
    )


def _unreachable() -> StageError:
    return StageError("the Prefect server does not answer", field=API_URL, value=_server(), next_step="start it, or correct the address")


def _server() -> str:
    return portable(os.environ.get(API_URL, ""))
