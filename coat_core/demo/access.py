"""Who may use the page: programs of this machine, or on another address those who know a user name and a password."""

from __future__ import annotations

import base64
import hmac
import ipaddress
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from coat_core.errors import CoatError
from coat_core.serving.chat import error_body
from coat_core.serving.guard import App, Message, Receive, Send

VARIABLE = "COAT_DEMO_AUTH"
_FORM = "user:password in one line, the password with at least 8 characters"
_HEADERS = (
    # Scripts, styles, pictures and sound come from this server only, so the page works without a network and loads nothing foreign.
    (b"content-security-policy", b"default-src 'self'; media-src 'self' blob: data:; img-src 'self' data:; frame-ancestors 'none'"),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
)


def is_loopback(host: str) -> bool:
    """Return whether an address or name reaches this machine only."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def read_credentials(host: str, file: Path | None, environment: Mapping[str, str] = os.environ) -> str | None:
    """Return `user:password` from the file or from `COAT_DEMO_AUTH`; None: the page needs none.

    Args:
        host: address of the interface.
        file: contains the credentials; None: the environment variable is read.
        environment: the environment.

    Raises:
        CoatError: the file cannot be read, the text has another form, or the host is not a loopback address and there are no credentials.
    """
    field, text = (VARIABLE, environment.get(VARIABLE)) if file is None else ("--auth-file", None)
    if file is not None:
        try:
            text = file.read_text()
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "it is no text"
            raise CoatError(f"the credentials cannot be read: {reason}", field=field, value=str(file), allowed=_FORM) from error
    if text is None or (file is None and not text):
        if is_loopback(host):
            return None
        raise CoatError(
            "an address that other machines reach needs credentials", field="--host", value=host, allowed="127.0.0.1, ::1 or localhost",
            next_step=f"write {_FORM} to a file and name it with --auth-file, or set {VARIABLE}",
        )  # fmt: skip
    found = text.strip()
    user, colon, password = found.partition(":")
    # The value is not shown: it is a secret.
    if not user or not colon or len(password) < 8 or "\n" in found:
        raise CoatError("the credentials have another form", field=field, allowed=_FORM)
    return found


class Access:
    """An ASGI application around another one: checks host name and credentials, and adds headers that bind the page to this server.

    A page of another site that a browser on this machine shows can reach a loopback port, under a host name of its own (DNS rebinding)
    or with a form. So a server on a loopback address answers to loopback names only, and `coat_core.demo.app` takes JSON only.

    Args:
        app: the application inside.
        host: address of the interface.
        credentials: `user:password`, or None.
    """

    def __init__(self, app: App, host: str, credentials: str | None) -> None:
        self._app = app
        self._names_checked = is_loopback(host)
        self._expected = None if credentials is None else base64.b64encode(credentials.encode())

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer one request, or refuse it with 401 or 421."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        if self._names_checked and not is_loopback(_name(headers.get(b"host", b"").decode("latin-1"))):
            await _refuse(send, 421, "this server answers to loopback names only", ())
            return
        if self._expected is not None and not self._known(headers.get(b"authorization", b"")):
            await _refuse(
                send, 401, "a user name and a password are needed", ((b"www-authenticate", b'Basic realm="coat", charset="UTF-8"'),)
            )
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", ()), *_HEADERS]}
            await send(message)

        await self._app(scope, receive, with_headers)

    def _known(self, authorization: bytes) -> bool:
        scheme, _, given = authorization.partition(b" ")
        assert self._expected is not None
        return scheme.lower() == b"basic" and hmac.compare_digest(given.strip(), self._expected)


def _name(host: str) -> str:
    """Return the name in a `Host` header, without the port and the brackets of IPv6."""
    return host[1:].partition("]")[0] if host.startswith("[") else host.rpartition(":")[0] or host


async def _refuse(send: Send, status: int, message: str, headers: tuple[Any, ...]) -> None:
    body = json.dumps(error_body(message, "invalid_request_error")).encode()
    start = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()), *headers, *_HEADERS]
    await send({"type": "http.response.start", "status": status, "headers": start})
    await send({"type": "http.response.body", "body": body})
