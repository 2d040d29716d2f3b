"""Errors of a Prefect server, or of the way to it, as one message each."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from coat_core.errors import StageError
from coat_core.registry.uris import portable

API_URL = "PREFECT_API_URL"
AUTH = "PREFECT_API_AUTH_STRING"


@contextmanager
def explained() -> Iterator[None]:
    """Turn errors of Prefect's client within the block into errors of this project.

    Raises:
        StageError: the server does not answer, refuses the credentials, or refuses a request.
    """
    import httpx
    from prefect.exceptions import PrefectHTTPStatusError

    try:
        yield
    except PrefectHTTPStatusError as error:
        raise _of_status(error.response.status_code) from error
    except httpx.HTTPStatusError as error:
        raise _of_status(error.response.status_code) from error
    except httpx.TransportError as error:
        raise _unreachable() from error
    except RuntimeError as error:
        # What Prefect's client raises when it cannot connect.
        if "Failed to reach API" not in str(error):
            raise
        raise _unreachable() from error


def _of_status(status: int) -> StageError:
    if status in (401, 403):
        return StageError(
            "the Prefect server refused the credentials",
            field=API_URL,
            value=_server(),
            next_step=f"set {AUTH} to the server's USER:PASSWORD",
        )
    return StageError(
        f"the Prefect server refused a request (status {status})", field=API_URL, value=_server(), next_step="read the server's log"
    )


def _unreachable() -> StageError:
    return StageError("the Prefect server does not answer", field=API_URL, value=_server(), next_step="start it, or correct the address")


def _server() -> str:
    return portable(os.environ.get(API_URL, ""))
