"""`mlflow server` on loopback, which can be killed and started again at the same address."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from coat_core.servers import free_port, wait_until_up
from tests.testing.chain_runs import HANG_S, environment

ADMIN, PASSWORD = "admin", "secret-of-the-administrator"
_ACCOUNTS = """[mlflow]
default_permission = READ
database_uri = sqlite:///{folder}/accounts.db
admin_username = {admin}
authorization_function = mlflow.server.auth:authenticate_request_basic_auth
auth_cache_ttl_seconds = 60
"""


class TrackingServer:
    """An MLflow server.

    Args:
        uri: its database.
        folder: folder of its log and its artifacts.
        accounts: whether it has accounts, with the administrator `ADMIN`; everybody may read.
    """

    def __init__(self, uri: str, folder: Path, *, accounts: bool = False) -> None:
        self.port, self.folder, self._uri, self._accounts = free_port(), folder, uri, accounts
        self.url = f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def artifacts(self) -> Path:
        """The folder of its artifacts."""
        return self.folder / "artifacts"

    @property
    def pid(self) -> int:
        """Id of its process, which is also that of its process group."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start the server and wait until it answers."""
        options = ["--host", "127.0.0.1", "--port", str(self.port), "--workers", "1", "--artifacts-destination", str(self.artifacts)]
        variables = {
            "MLFLOW_BACKEND_STORE_URI": self._uri, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true",
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        }  # fmt: skip
        if self._accounts:
            options += ["--app-name", "basic-auth"]
            (self.folder / "accounts.ini").write_text(_ACCOUNTS.format(folder=self.folder, admin=ADMIN))
            variables |= {
                "MLFLOW_AUTH_CONFIG_PATH": str(self.folder / "accounts.ini"), "MLFLOW_AUTH_ADMIN_PASSWORD": PASSWORD,
                "MLFLOW_FLASK_SERVER_SECRET_KEY": "secret-of-the-sessions",
            }  # fmt: skip
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "mlflow", "server", *options], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True, env=environment(**variables),
            )  # fmt: skip
        assert wait_until_up(self._process, f"{self.url}/health", limit_s=HANG_S), (self.folder / "log").read_text()[-3000:]

    def kill(self) -> None:
        """End the server with SIGKILL."""
        assert self._process is not None
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
