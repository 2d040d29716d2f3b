"""Refusals over real connections: a client that is still sending its body receives the answer, not a reset."""

from __future__ import annotations

import http.client
import json
import socket
import urllib.parse
from collections.abc import Iterator

import pytest

from coat_core.serving import guard
from coat_core.serving.app import COMPLETIONS, make_app
from coat_core.serving.limits import Limits
from tests.serving.test_app import NAME, Echo, body
from tests.testing.app_server import app_server
from tests.testing.chain_runs import wait_for

LARGE = b"x" * 30_000_000
"""More than the buffers of a connection hold."""


@pytest.fixture(scope="module")
def place() -> Iterator[str]:
    with app_server(make_app(NAME, Echo(), Limits(requests=2, body_mb=0.1, tokens=32))) as url:
        yield urllib.parse.urlsplit(url).netloc


def post(place: str, content: bytes | Iterator[bytes]) -> tuple[int, str | None]:
    """Send all of a body before reading the answer, as most clients do."""
    connection = http.client.HTTPConnection(place)
    connection.request("POST", COMPLETIONS, content, encode_chunked=not isinstance(content, bytes))
    reply = connection.getresponse()
    message = json.loads(reply.read()).get("error", {}).get("message")
    connection.close()
    return reply.status, message


def begin(place: str, length: int) -> socket.socket:
    """Send the head of a request and one byte of its body."""
    host, _, port = place.partition(":")
    connection = socket.create_connection((host, int(port)))
    connection.sendall(f"POST {COMPLETIONS} HTTP/1.1\r\nHost: {place}\r\nContent-Length: {length}\r\n\r\nx".encode())
    return connection


def in_flight(place: str) -> str:
    connection = http.client.HTTPConnection(place)
    connection.request("GET", "/metrics")
    lines = connection.getresponse().read().decode().splitlines()
    connection.close()
    return next(line for line in lines if line.startswith("coat_requests_in_flight "))


def test_a_body_that_is_too_large_is_answered(place: str) -> None:
    assert post(place, LARGE) == (413, "the body is larger than 0.1 MB")


def test_a_request_too_many_with_a_large_body_is_answered(place: str) -> None:
    waiting = [begin(place, 10) for _ in range(2)]
    assert wait_for(lambda: in_flight(place) == "coat_requests_in_flight 2.0")
    assert post(place, LARGE) == (503, "the server has 2 requests already; try again")
    for connection in waiting:
        connection.close()
    assert wait_for(lambda: in_flight(place) == "coat_requests_in_flight 0.0")


def test_refused_requests_whose_body_still_arrives_take_no_place(place: str) -> None:
    refused = [begin(place, len(LARGE)) for _ in range(4)]
    for connection in refused:
        assert connection.recv(12) == b"HTTP/1.1 413"
    assert post(place, json.dumps(body("rain")).encode())[0] == 200
    for connection in refused:
        connection.close()


def test_a_refused_body_that_never_ends_is_cut(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "LINGER_S", 0.05)
    connection = begin(place, len(LARGE))
    found = b""
    while part := connection.recv(4096):
        found += part
    assert found.startswith(b"HTTP/1.1 413")
    assert b"larger than 0.1 MB" in found
    connection.close()
