"""Admission of requests: how many, how large and how slow. It stands before every door that makes the model compute."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from coat_core import logs
from coat_core.serving.chat import error_body
from coat_core.serving.limits import Limits
from coat_core.serving.metrics import Metrics

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]
_OTHER = "other"

LINGER_S = 10.0
"""Longest time for the rest of a refused body. A connection closed with unread data is reset, and its client may lose the answer."""


@dataclass(frozen=True)
class _Refusal:
    status: int
    message: str
    retry_after_s: int | None = None


class Guard:
    """An ASGI application around another one.

    The body of a POST request is read completely, up to the limit, before the application sees the request: so the memory of the
    server is bounded by the number of requests times the size of a body. A refused request is answered at once; the rest of its body
    is read and dropped, and counts as no request in the server.

    Args:
        app: the application inside.
        limits: limits of the server.
        paths: the known paths; others share one label in the metrics.
    """

    def __init__(self, app: App, limits: Limits, paths: frozenset[str]) -> None:
        self._app, self._limits, self._paths = app, limits, paths
        self.in_flight = 0
        self.metrics = Metrics(lambda: self.in_flight)

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer one request, or refuse it with 408, 413 or 503."""
        if scope["type"] != "http" or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        path, begin, status = scope["path"] if scope["path"] in self._paths else _OTHER, time.perf_counter(), 500
        body, refusal = _Body(receive), None

        async def record(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        self.in_flight += 1
        try:
            refusal = await self._admit(scope, body, record)
        finally:
            seconds = time.perf_counter() - begin
            self.in_flight -= 1
            status = refusal.status if refusal else status
            self.metrics.requests.labels(path, str(status)).inc()
            self.metrics.seconds.labels(path).observe(seconds)
            logs.event("request", f"{scope['path']} {status}", path=scope["path"], status=status, seconds=round(seconds, 4))
        if refusal:
            await _refuse(send, body, refusal)

    async def _admit(self, scope: Message, body: _Body, send: Send) -> _Refusal | None:
        """Let the application answer, or return why it must not."""
        if self.in_flight > self._limits.requests:
            return _Refusal(503, f"the server has {self._limits.requests} requests already; try again", retry_after_s=1)
        largest = self._limits.body_bytes
        too_large = _Refusal(413, f"the body is larger than {self._limits.body_mb:g} MB")
        if (length := _content_length(scope)) is not None and length > largest:
            return too_large
        try:
            content = await asyncio.wait_for(body.read(largest), self._limits.body_timeout_s)
        except TimeoutError:
            return _Refusal(408, f"the body did not arrive within {self._limits.body_timeout_s:g} s")
        if content is None:
            return too_large
        await self._app(scope, _replay(content, body.receive), send)
        return None


class _Body:
    """The body of one request, as it arrives.

    Args:
        receive: gives the next part.
    """

    def __init__(self, receive: Receive) -> None:
        self.receive = receive
        self._complete = False

    async def read(self, largest: int) -> bytes | None:
        """Return the whole body; None if it is larger than `largest` bytes."""
        body = bytearray()
        while not self._complete:
            body += await self._part()
            if len(body) > largest:
                return None
        return bytes(body)

    async def discard(self) -> None:
        """Read the rest of the body and drop it."""
        while not self._complete:
            await self._part()

    async def _part(self) -> bytes:
        message = await self.receive()
        self._complete = message["type"] == "http.disconnect" or not message.get("more_body", False)
        part: bytes = message.get("body", b"")
        return part


def _replay(body: bytes, receive: Receive) -> Receive:
    """Return a `receive` that gives the body once, and afterwards what the server says (a disconnect)."""
    given = False

    async def again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


async def _refuse(send: Send, body: _Body, refusal: _Refusal) -> None:
    answer = json.dumps(error_body(refusal.message, "server_error" if refusal.status == 503 else "invalid_request_error")).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(answer)).encode()), (b"connection", b"close")]
    if refusal.retry_after_s is not None:
        headers.append((b"retry-after", str(refusal.retry_after_s).encode()))
    await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
    await send({"type": "http.response.body", "body": answer, "more_body": True})
    with suppress(TimeoutError):
        await asyncio.wait_for(body.discard(), LINGER_S)
    await send({"type": "http.response.body", "body": b""})


def _content_length(scope: Message) -> int | None:
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit():
            return int(value)
    return None
