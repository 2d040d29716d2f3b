"""Servers on loopback that answer as they are told."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class QuietHandler(BaseHTTPRequestHandler):
    """A handler that prints nothing."""

    def log_message(self, format: str, *args: object) -> None:
        """Print nothing."""


@contextmanager
def serving(handler: type[BaseHTTPRequestHandler], host: str = "127.0.0.1") -> Iterator[str]:
    """Serve on a free port until the block ends; yield the URL."""
    server = ThreadingHTTPServer((host, 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://{host}:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def answering(status_of: Callable[[str, str | None], int], host: str = "127.0.0.1") -> Iterator[str]:
    """Answer each request with two bytes of text; yield the URL.

    Args:
        status_of: path and `Authorization` header → status.
        host: address of the interface.
    """

    class Handler(QuietHandler):
        def answer(self) -> None:
            self.send_response(status_of(self.path.partition("?")[0], self.headers["Authorization"]))
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"--")

        do_GET = do_POST = answer  # noqa: N815

    with serving(Handler, host) as url:
        yield url
