"""S3 servers on loopback: moto, and a proxy in front of it that drops, damages and refuses answers."""

from __future__ import annotations

import tempfile
import threading
import uuid
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, Literal

import pytest

from coat_core.storage import s3
from tests.testing.http_server import QuietHandler, serving

KEY_ID, SECRET = "AKIATESTONLY00000000", "secret-of-the-tests-0123456789abcdefghij"
Fault = Literal["half", "damaged", "busy", "closed"]


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
    """Forwards requests to a server; answers to GET requests of an object have the faults that were set for its path, one each."""

    def __init__(self, upstream: str) -> None:
        self.faults: dict[str, list[Fault]] = defaultdict(list)
        self.gets: dict[str, int] = defaultdict(int)
        host, _, port = upstream.removeprefix("http://").partition(":")
        lock = threading.Lock()
        proxy = self

        class Handler(QuietHandler):
            protocol_version = "HTTP/1.1"

            def forward(self) -> None:
                path = self.path.partition("?")[0]
                with lock:
                    fault = proxy.faults[path].pop(0) if self.command == "GET" and proxy.faults[path] else None
                    proxy.gets[path] += self.command == "GET"
                if fault == "closed":
                    self.close_connection = True
                    return
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                connection = HTTPConnection(host, int(port))
                connection.request(self.command, self.path, body, dict(self.headers))
                answer = connection.getresponse()
                data = answer.read()
                connection.close()
                status = 503 if fault == "busy" else answer.status
                headers = [(k, v) for k, v in answer.getheaders() if k.lower() not in ("transfer-encoding", "connection", "content-length")]
                if fault == "busy":
                    data, headers = b"<Error><Code>SlowDown</Code></Error>", []
                self.send_response(status)
                for name, value in headers:
                    self.send_header(name, value)
                length = answer.getheader("Content-Length") if self.command == "HEAD" else len(data)
                self.send_header("Content-Length", str(length))
                self.end_headers()
                if fault == "half":
                    data, self.close_connection = data[: len(data) // 2], True
                elif fault == "damaged":
                    data = bytes([data[0] ^ 1]) + data[1:]
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
