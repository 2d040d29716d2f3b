"""The Prefect server that `coat run` starts when no `PREFECT_API_URL` is set: on loopback, in its own session, with its own home.

Prefect's built-in temporary server drops records at exit, and Ctrl-C ends it before the flow. This server runs until the flow's last
record is stored, and ends by itself when its flow is gone.

    python -m flows.server --port 4200
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from coat_core.errors import StageError
from coat_core.registry.uris import database_uri
from coat_core.servers import free_port
from coat_core.watchdog import OWNER, owner_mark

HOME = Path(".scratch/prefect")
"""Folder of Prefect's records, relative to the workspace."""
START_S = 120.0
DELIVERY_LIMIT_S = 10.0
DRAIN_S = 2.0
"""Time for the server to store what it has received."""
_DATABASE_WAIT_S = "60"
"""SQLite has one writer at a time: on a busy disk the default limit of 10 s ends in errors that no user can fix."""
_ADDRESS = "server.url"
_UI_API_URL = "PREFECT_SERVER_UI_API_URL"
_SERVER_SETTINGS = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
    "PREFECT_LOGGING_SERVER_LEVEL": "ERROR",
    "DO_NOT_TRACK": "true",
}
_LEASES = ("PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE", "prefect.server.concurrency.lease_storage.filesystem")
"""Prefect's default keeps the leases of `concurrency()` in memory: after a restart of the server their slots are never given back."""


def server_settings(workspace: Path, url: str) -> dict[str, str]:
    """Return the environment of a server over a workspace's own records; its page calls the API at `url`."""
    home = (workspace / HOME).resolve()
    return {
        **_SERVER_SETTINGS,
        "PREFECT_HOME": str(home),
        "PREFECT_API_DATABASE_CONNECTION_URL": database_uri(home / "prefect.db", "aiosqlite"),
        _UI_API_URL: url,
    }


def running_server(workspace: Path) -> str | None:
    """Return the API's URL of the server that a run in this workspace has started; it may have ended by now."""
    try:
        return (workspace / HOME / _ADDRESS).read_text().strip() or None
    except OSError:
        return None


@contextmanager
def prefect_api(workspace: Path) -> Iterator[str]:
    """Yield the URL of a Prefect API: the configured one, or that of a server that runs until the block ends.

    Raises:
        StageError: the server does not start; the message names its log.
    """
    configured = os.environ.get("PREFECT_API_URL")
    if configured:
        yield configured
        return
    home = (workspace / HOME).resolve()
    home.mkdir(parents=True, exist_ok=True)
    port, log = free_port(), home / "server.log"
    url = f"http://127.0.0.1:{port}/api"
    settings = server_settings(workspace, url)
    with log.open("wb") as stream:
        server = subprocess.Popen(
            [sys.executable, "-m", "flows.server", "--port", str(port)],
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**os.environ, **settings, OWNER: owner_mark()},
        )
    try:
        _wait_healthy(server, url, log)
        (home / _ADDRESS).write_text(url)
        # The page's setting belongs to this server alone: the next one in this process has another port.
        os.environ.update({**settings, "PREFECT_API_URL": url})
        os.environ.pop(_UI_API_URL)
        try:
            yield url
        finally:
            _deliver_records()
    finally:
        os.environ.pop("PREFECT_API_URL", None)
        (home / _ADDRESS).unlink(missing_ok=True)
        server.send_signal(signal.SIGTERM)
        try:
            server.wait(10)
        except subprocess.TimeoutExpired:
            server.kill()


def serve(port: int) -> None:
    """Run a Prefect server on the loopback interface in this process until it is signalled or its owner is gone."""
    for name in ("PREFECT_SERVER_DATABASE_TIMEOUT", "PREFECT_SERVER_DATABASE_CONNECTION_TIMEOUT"):
        os.environ.setdefault(name, _DATABASE_WAIT_S)
    os.environ.setdefault(*_LEASES)
    # Prefect's page would call port 4200 otherwise.
    os.environ.setdefault(_UI_API_URL, f"http://127.0.0.1:{port}/api")
    import uvicorn

    from coat_core.watchdog import watch_owner

    watch_owner()
    uvicorn.run(
        "prefect.server.api.server:create_app", factory=True, host="127.0.0.1", port=port, log_level="error", timeout_graceful_shutdown=3
    )


def _deliver_records() -> None:
    """Send the server every log line and event that is still queued, however the flow ended.

    At interpreter exit Prefect's own queues wait for their server without limit: the process would hang once the server is stopped.
    """
    for module, worker in (("prefect.logging.handlers", "APILogWorker"), ("prefect.events.worker", "EventsWorker")):
        if module in sys.modules:
            getattr(sys.modules[module], worker).drain_all(timeout=DELIVERY_LIMIT_S, at_exit=False)
    time.sleep(DRAIN_S)


def _wait_healthy(server: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        if server.poll() is not None:
            break
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=2):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.25)
    raise StageError(
        "the Prefect server did not start",
        field="log",
        value=str(log),
        next_step="read its log, or set PREFECT_API_URL to a running server",
    )


def main() -> None:
    """Run the server with the port from the command line."""
    parser = argparse.ArgumentParser(description="Run a Prefect server on the loopback interface; it ends with its owner.")
    parser.add_argument("--port", type=int, required=True, help="TCP port of the loopback interface")
    serve(parser.parse_args().port)


if __name__ == "__main__":
    main()
