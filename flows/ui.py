"""`coat ui`: the pages of MLflow and Prefect over the records of a workspace, on the loopback interface."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from coat_core.errors import RegistryError, StageError
from coat_core.registry.uris import TRACKING_URI, portable
from coat_core.servers import (
    LOOPBACK,
    answers,
    check_port,
    free_port,
    path_with,
    server_process,
    sigterm_as_interrupt,
    wait_for_an_end,
    wait_until_up,
)
from flows.server import HOME, START_S, running_server, server_settings

LOGS = Path(".scratch/ui")
_STORE = "MLFLOW_BACKEND_STORE_URI"


@dataclass(frozen=True)
class Page:
    """One page.

    Attributes:
        name: MLflow or Prefect.
        content: what it shows.
        url: address for a browser; empty without records.
        command: program that serves it; empty if it runs elsewhere.
        environment: what the program needs in addition to the environment of this process.
        health: address that answers once the page can be opened.
        note: why there is no page, or which server has it.
    """

    name: str
    content: str
    url: str
    command: tuple[str, ...] = ()
    environment: Mapping[str, str] | None = None
    health: str = ""
    note: str = ""


def show_pages(
    workspace: Path,
    *,
    start: bool = True,
    mlflow_port: int | None = None,
    prefect_port: int | None = None,
    echo: Callable[[str], None] = print,
) -> None:
    """Start the servers of the pages, print their links, and wait for SIGINT or SIGTERM, which end both.

    Args:
        workspace: folder in which the pipeline ran.
        start: False prints the commands only.
        mlflow_port: TCP port of MLflow; None: a free one.
        prefect_port: TCP port of Prefect; None: a free one.
        echo: prints one line.

    Raises:
        RegistryError: this folder has no records of a run; nothing was created.
        CoatError: a port is in use.
        StageError: a server does not start, or has ended.
    """
    pages = [_mlflow(workspace, mlflow_port), _prefect(workspace, prefect_port)]
    if not start:
        for page in pages:
            echo(f"{page.name:8} {_shell(page) if page.command else ' '.join(filter(None, (page.url, page.note)))}")
        return
    with sigterm_as_interrupt(), ExitStack() as stack:
        started = [(page, _start(stack, workspace, page)) for page in pages if page.command]
        for page, process in started:
            if not wait_until_up(process, page.health, limit_s=START_S):
                raise _ended(workspace, page)
        for page in pages:
            echo(f"{page.name:8} {'  '.join(filter(None, (page.url, page.note or page.content)))}")
        if started:
            echo("Ctrl-C stops them")
            ended = wait_for_an_end([process for _, process in started])
            raise _ended(workspace, next(page for page, process in started if process is ended))


def _mlflow(workspace: Path, port: int | None) -> Page:
    from coat_core.registry.database import set_mlflow_environment, tracking_uri
    from coat_core.registry.uris import DATABASE, is_served

    configured, content = os.environ.get("MLFLOW_TRACKING_URI", ""), "experiments, models and their versions"
    if configured and is_served(configured):
        return Page("MLflow", content, portable(configured), note="the server in MLFLOW_TRACKING_URI")
    if not configured and not (workspace / DATABASE).exists():
        raise RegistryError(
            "there are no records of a run here", field="workspace", value=str(workspace.resolve()), allowed=f"a folder with {DATABASE}",
            next_step="change to a workspace, or run the pipeline first: coat run",
        )  # fmt: skip
    set_mlflow_environment()
    port = _port(port)
    url = f"http://{LOOPBACK}:{port}"
    uri, environment = tracking_uri(workspace), {"PATH": path_with(Path(sys.executable).parent)}
    options = {"--host": LOOPBACK, "--port": str(port), "--workers": "1"}
    if uri.startswith("sqlite"):
        options = {"--backend-store-uri": uri, **options}
    else:
        # An argument would show the password to every user of the host, in the list of processes.
        environment[_STORE] = uri
    command = (sys.executable, "-m", "mlflow", "server", *(part for option in options.items() for part in option))
    return Page("MLflow", content, url, command, environment, f"{url}/health")


def _prefect(workspace: Path, port: int | None) -> Page:
    configured, content = os.environ.get("PREFECT_API_URL", ""), "runs of the pipeline and their stages"
    if configured:
        return Page("Prefect", content, portable(configured).rstrip("/").removesuffix("/api"), note="the server in PREFECT_API_URL")
    running = running_server(workspace)
    if running and answers(f"{running}/health"):
        return Page("Prefect", content, running.removesuffix("/api"), note="the server of the run in progress")
    if not (workspace / HOME / "prefect.db").is_file():
        return Page("Prefect", content, "", note="no page: coat run has not run here (dvc repro leaves no records in Prefect)")
    port = _port(port)
    url = f"http://{LOOPBACK}:{port}"
    command = (sys.executable, "-m", "flows.server", "--port", str(port))
    return Page("Prefect", content, url, command, server_settings(workspace, f"{url}/api"), f"{url}/api/health")


def _port(port: int | None) -> int:
    if port is None:
        return free_port()
    check_port(LOOPBACK, port)
    return port


def _start(stack: ExitStack, workspace: Path, page: Page) -> subprocess.Popen[bytes]:
    log = _log(workspace, page)
    log.parent.mkdir(parents=True, exist_ok=True)
    return stack.enter_context(
        server_process(page.command, {**os.environ, **(page.environment or {})}, stack.enter_context(log.open("wb")))
    )


def _ended(workspace: Path, page: Page) -> StageError:
    return StageError(
        f"{page.name}'s server has ended or did not start", field="log", value=str(_log(workspace, page)), next_step="read its log"
    )


def _log(workspace: Path, page: Page) -> Path:
    return workspace / LOGS / f"{page.name.lower()}.log"


def _shell(page: Page) -> str:
    shown = {name: f'"${TRACKING_URI}"' if name == _STORE else shlex.quote(value) for name, value in (page.environment or {}).items()}
    return f"{''.join(f'{name}={value} ' for name, value in shown.items())}{shlex.join(page.command)}"
