"""Admission of requests: how many, how large and how slow. It stands before every door that makes the model compute."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from coat_core.serving.chat import error_body
from coat_core.serving.limits import Limits
from coat_core.serving.metrics import Metrics

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]
_OTHER = "other"


class Guard:
    """An ASGI application around another one.

    The body of a POST request is read completely, up to the limit, before the application sees the request: so the memory of the
    server is bounded by the number of requests times the size of a body.

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

        async def record(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        self.in_flight += 1
        try:
            await self._admit(scope, receive, record)
        finally:
            self.in_flight -= 1
            self.metrics.requests.labels(path, str(status)).inc()
            self.metrics.seconds.labels(path).observe(time.perf_counter() - begin)

    async def _admit(self, scope: Message, receive: Receive, send: Send) -> None:
        if self.in_flight > self._limits.requests:
            await _refuse(send, 503, f"the server has {self._limits.requests} requests already; try again", retry_after_s=1)
            return
        largest = self._limits.body_bytes
        too_large = f"the body is larger than {self._limits.body_mb:g} MB"
        if (length := _content_length(scope)) is not None and length > largest:
            await _refuse(send, 413, too_large)
            return
        try:
            body = await asyncio.wait_for(_read(receive, largest), self._limits.body_timeout_s)
        except TimeoutError:
            await _refuse(send, 408, f"the body did not arrive within {self._limits.body_timeout_s:g} s")
            return
        if body is None:
            await _refuse(send, 413, too_large)
            return
        await self._app(scope, _replay(body, receive), send)


async def _read(receive: Receive, largest: int) -> bytes | None:
    """Return the body; None if it is larger than `largest` bytes."""
    body, more = bytearray(), True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            break
        body += message.get("body", b"")
        more = message.get("more_body", False)
        if len(body) > largest:
            return None
    return bytes(body)


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


async def _refuse(send: Send, status: int, message: str, *, retry_after_s: int | None = None) -> None:
    body = json.dumps(error_body(message, "server_error" if status == 503 else "invalid_request_error")).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()), (b"connection", b"close")]
    if retry_after_s is not None:
        headers.append((b"retry-after", str(retry_after_s).encode()))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _content_length(scope: Message) -> int | None:
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit():
            return int(value)
    return None
