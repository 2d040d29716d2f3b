"""A server on loopback that answers as it is told."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@contextmanager
def answering(status_of: Callable[[str, str | None], int], host: str = "127.0.0.1") -> Iterator[str]:
    """Answer each request with two bytes of text; yield the URL.

    Args:
        status_of: path and `Authorization` header → status.
        host: address of the interface.
    """

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *arguments: Any) -> None:
            """Print nothing."""

        def answer(self) -> None:
            self.send_response(status_of(self.path.partition("?")[0], self.headers["Authorization"]))
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"--")

        do_GET = do_POST = answer  # noqa: N815

    server = ThreadingHTTPServer((host, 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://{host}:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
