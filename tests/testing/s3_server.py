"""S3 servers on loopback: moto, and a proxy in front of it that drops, damages, delays and refuses requests and answers."""

from __future__ import annotations

import tempfile
import threading
import time
import uuid
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, Literal

import pytest

from coat_core.storage import s3
from tests.testing.http_server import QuietHandler, serving

KEY_ID, SECRET = "AKIATESTONLY00000000", "secret-of-the-tests-0123456789abcdefghij"
Fault = Literal["half", "damaged", "busy", "failed", "closed", "lost", "slow"]
"""`half`: the answer is cut off; `damaged`: a byte of it is changed; `busy`, `failed`: status 503 or 500, the request did not arrive;
`closed`: neither did this one; `lost`: it did, but has no answer; `slow`: it waits."""
_ERRORS = {"busy": (503, b"<Error><Code>SlowDown</Code></Error>"), "failed": (500, b"<Error><Code>InternalError</Code></Error>")}
_SLOW_S = 0.2


@contextmanager
def moto_server() -> Iterator[str]:
    """Run moto's S3 server; yield its URL."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        yield f"http://{host}:{port}"
    finally:
        server.stop()


def use_server(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    """Set the environment of the AWS SDKs to a server on loopback; the host's own profile is not read."""
    nothing = Path(tempfile.gettempdir()) / "coat-tests-empty-aws-config"
    nothing.touch()
    values = {
        "AWS_ENDPOINT_URL": url, "AWS_ACCESS_KEY_ID": KEY_ID, "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true", "AWS_CONFIG_FILE": str(nothing), "AWS_SHARED_CREDENTIALS_FILE": str(nothing),
    }  # fmt: skip
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name, raising=False)


class FaultyProxy:
    """Forwards requests to a server, with faults.

    Attributes:
        faults: path of an object → faults of the next answers to GET requests of it, one each.
        choose: returns the fault of any other request, given its method; default: none.
        gets: GET requests by path.
        counts: faults so far.
    """

    def __init__(self, upstream: str) -> None:
        self.faults: dict[str, list[Fault]] = defaultdict(list)
        self.choose: Callable[[str], Fault | None] = lambda method: None
        self.gets: dict[str, int] = defaultdict(int)
        self.counts: Counter[Fault] = Counter()
        host, _, port = upstream.removeprefix("http://").partition(":")
        lock = threading.Lock()
        proxy = self

        class Handler(QuietHandler):
            protocol_version = "HTTP/1.1"

            def forward(self) -> None:
                path = self.path.partition("?")[0]
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                with lock:
                    given = self.command == "GET" and proxy.faults[path]
                    fault = proxy.faults[path].pop(0) if given else proxy.choose(self.command)
                    proxy.gets[path] += self.command == "GET"
                    proxy.counts.update([fault] if fault else [])
                if fault == "closed":
                    self.close_connection = True
                    return
                if fault == "slow":
                    time.sleep(_SLOW_S)
                if fault in _ERRORS:
                    status, data = _ERRORS[fault]
                    self.answer(status, data, [], str(len(data)))
                    return
                connection = HTTPConnection(host, int(port))
                connection.request(self.command, self.path, body, dict(self.headers))
                answer = connection.getresponse()
                data = answer.read()
                connection.close()
                if fault == "lost":
                    self.close_connection = True
                    return
                headers = [(k, v) for k, v in answer.getheaders() if k.lower() not in ("transfer-encoding", "connection", "content-length")]
                length = answer.getheader("Content-Length") if self.command == "HEAD" else None
                length = length or str(len(data))
                if fault == "half":
                    data, self.close_connection = data[: len(data) // 2], True
                elif fault == "damaged" and data:
                    data = bytes([data[0] ^ 1]) + data[1:]
                self.answer(answer.status, data, headers, length)

            def answer(self, status: int, data: bytes, headers: Sequence[tuple[str, str]], length: str) -> None:
                self.send_response(status)
                for name, value in headers:
                    self.send_header(name, value)
                self.send_header("Content-Length", length)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(data)

            do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = forward  # noqa: N815

        self._handler = Handler
        self.url = ""

    @contextmanager
    def running(self) -> Iterator[FaultyProxy]:
        """Serve within the context."""
        with serving(self._handler) as self.url:
            yield self


@pytest.fixture(scope="session")
def moto() -> Iterator[str]:
    with moto_server() as url:
        yield url


@pytest.fixture
def proxy(moto: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyProxy]:
    """The server behind a faulty proxy; repeated requests do not wait."""
    with FaultyProxy(moto).running() as running:
        use_server(monkeypatch, running.url)
        monkeypatch.setattr(s3, "_FIRST_PAUSE_S", 0.0)
        monkeypatch.setattr("botocore.retries.standard.ExponentialBackoff.delay_amount", lambda *_: 0.0)
        yield running


@pytest.fixture
def client(proxy: FaultyProxy) -> Any:
    return s3.open_client()


@pytest.fixture
def bucket(client: Any) -> str:
    name = f"bucket-{uuid.uuid4().hex[:12]}"
    client.create_bucket(Bucket=name)
    return name
