"""An application on a port of the loopback interface, for the tests that need real connections."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn

from coat_core.servers import free_port
from tests.testing.chain_runs import wait_for


@contextmanager
def app_server(app: Any) -> Iterator[str]:
    """Serve an ASGI application within the block; give its address."""
    port = free_port()
    running = uvicorn.Server(uvicorn.Config(app, port=port, log_level="warning"))
    thread = threading.Thread(target=running.run)
    thread.start()
    assert wait_for(lambda: running.started)
    yield f"http://127.0.0.1:{port}"
    running.should_exit = True
    thread.join()
