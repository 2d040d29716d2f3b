"""A Prefect server with a worker, on loopback, as a team runs them; and a webhook that receives its notifications."""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

from coat_core.pipeline.workspace import repository_root
from coat_core.servers import free_port
from tests.testing import chain_runs
from tests.testing.http_server import QuietHandler, serving

ENDED = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")


@dataclass
class Site:
    """A Prefect server, and its worker once it is started.

    Attributes:
        folder: Prefect's home, with the logs of server and worker.
        login: `user:password`; empty: anybody may call the server.
        environment: the environment of the server, of the worker and of commands.
    """

    folder: Path
    login: str = ""
    environment: dict[str, str] = field(default_factory=dict)
    url: str = ""
    server: subprocess.Popen[bytes] | None = None
    worker: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> Path:
        """Log of the server."""
        return self.folder / "server.log"

    @property
    def worker_log(self) -> Path:
        """Log of the worker."""
        return self.folder / "worker.log"

    def request(self, path: str, body: dict[str, Any] | None = None) -> Any:
        """Call the server's REST API; with a body the method is POST."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.url}{path}", data, {"Content-Type": "application/json"})
        if self.login:
            request.add_header("Authorization", f"Basic {base64.b64encode(self.login.encode()).decode()}")
        with urllib.request.urlopen(request, timeout=chain_runs.HANG_S) as response:
            return json.loads(response.read())

    def state(self, run: UUID | str) -> str:
        """Return the state type of a flow run."""
        return str(self.request(f"/flow_runs/{run}")["state_type"])

    def start(self, deployment: str, **parameters: Any) -> str:
        """Start a run of a deployment and return its id."""
        found = self.request(f"/deployments/name/coat/{deployment}")
        body = {"parameters": parameters, "state": {"type": "SCHEDULED"}}
        return str(self.request(f"/deployments/{found['id']}/create_flow_run", body)["id"])

    def wait_for_end(self, run: str) -> str:
        """Wait for the end of a flow run and return its state type."""
        assert chain_runs.wait_for(lambda: self.state(run) in ENDED, interval_s=0.5), self.worker_log.read_text()[-5000:]
        return self.state(run)

    def command(self, name: str, *arguments: str, **extra: str) -> subprocess.CompletedProcess[str]:
        """Run an installed command in the repository, with further environment variables; an empty one is left out."""
        variables = {key: value for key, value in {**self.environment, **extra}.items() if value}
        return subprocess.run(
            [chain_runs.BIN / name, *arguments], cwd=repository_root(), env=variables, capture_output=True, text=True,
            timeout=chain_runs.HANG_S,
        )  # fmt: skip

    def deploy(self, *arguments: str, **extra: str) -> str:
        """Run `coat deploy` as the host that deploys, which has no COAT_HOME; return what it printed."""
        done = self.command("coat", "deploy", *arguments, COAT_HOME="", **extra)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def start_worker(self) -> None:
        """Start a worker of the pool `coat`."""
        arguments = ("worker", "start", "--pool", "coat", "--type", "process", "--limit", "1")
        self.worker = self._start(self.worker_log, str(chain_runs.BIN / "prefect"), *arguments)

    def start_server(self) -> None:
        """Start the server and wait until it answers."""
        self.server = self._start(self.log, sys.executable, "-m", "flows.server", "--port", self.url.split(":")[2].split("/")[0])
        assert chain_runs.wait_for(self._answers, interval_s=0.3), self.log.read_text()[-3000:]

    def stop(self) -> None:
        """End worker and server."""
        for process in (self.worker, self.server):
            if process is None:
                continue
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    def _start(self, log: Path, *arguments: str) -> subprocess.Popen[bytes]:
        with log.open("ab") as stream:
            streams = {"stdin": subprocess.DEVNULL, "stdout": stream, "stderr": stream}
            return subprocess.Popen(arguments, cwd=repository_root(), env=self.environment, start_new_session=True, **streams)

    def _answers(self) -> bool:
        assert self.server is not None
        assert self.server.poll() is None, self.log.read_text()[-3000:]
        try:
            with urllib.request.urlopen(f"{self.url}/health", timeout=2):
                return True
        except OSError:
            return False


@contextmanager
def prefect_site(folder: Path, *, login: str = "", database: str = "", **extra: str) -> Iterator[Site]:
    """Run a Prefect server until the block ends.

    Args:
        folder: its home.
        login: `user:password` that every call needs; empty: none.
        database: URI of its database; empty: SQLite.
        extra: environment variables of server, worker and commands.
    """
    made = Site(folder, login, url=f"http://127.0.0.1:{free_port()}/api")
    made.environment = chain_runs.environment(
        PREFECT_HOME=str(folder),
        PREFECT_API_URL=made.url,
        PREFECT_API_DATABASE_CONNECTION_URL=database or f"sqlite+aiosqlite:///{folder / 'prefect.db'}",
        PREFECT_SERVER_ANALYTICS_ENABLED="false",
        PREFECT_WORKER_QUERY_SECONDS="1",
        PREFECT_CLI_PROMPT="false",
        COAT_HOME=str(repository_root()),
        **({"PREFECT_SERVER_API_AUTH_STRING": login, "PREFECT_API_AUTH_STRING": login} if login else {}),
        **extra,
    )
    try:
        made.start_server()
        yield made
    finally:
        made.stop()


@contextmanager
def webhook() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Receive notifications; yield the address and the list of what has arrived."""
    received: list[dict[str, Any]] = []
    lock = threading.Lock()

    class Handler(QuietHandler):
        def do_POST(self) -> None:  # noqa: N802
            body = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))))
            with lock:
                received.append({"content_type": self.headers.get("Content-Type"), **body})
            self.send_response(200)
            self.end_headers()

    with serving(Handler) as url:
        yield f"{url}/secret-path", received
