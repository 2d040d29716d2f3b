"""`coat demo`: loads the models once and shows the page until Ctrl-C or SIGTERM."""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from pathlib import Path

import uvicorn

from coat_core.demo.access import read_credentials
from coat_core.servers import LOOPBACK, check_port, sigterm_as_interrupt
from coat_core.serving.limits import Limits


def show_demo(
    names: Sequence[str],
    port: int,
    *,
    host: str = LOOPBACK,
    auth_file: Path | None = None,
    device: str = "cpu",
    dtype: str | None = None,
    base: str | None = None,
    limits: Limits,
    workspace: Path = Path(),
    echo: Callable[[str], None] = print,
) -> None:
    """Load models and show the page until SIGINT or SIGTERM.

    Args:
        names: registered versions, folders of releases or of exports; none: base, sft and coat of the first backbone in `models/`.
        port: TCP port.
        host: address of the interface; one that other machines reach needs credentials.
        auth_file: file with `user:password`; None: the variable `COAT_DEMO_AUTH`, and without it no credentials.
        device: `cpu` or `cuda`.
        dtype: dtype of the weights; None: as in training, or as exported.
        base: folder or cached hub id of the base of every release; None: as stored.
        limits: limits of the server.
        workspace: folder with the data and the responses of a run, if there is one.
        echo: prints one line.

    Raises:
        CoatError: a model, the credentials or the address cannot be used; nothing is shown.
    """
    from coat_core.demo.app import make_app
    from coat_core.demo.items import SavedItems
    from coat_core.demo.models import default_models, load_models
    from coat_core.device import check_device
    from coat_core.settings import load_settings

    credentials = read_credentials(host, auth_file)
    check_device(device, "--device")
    check_port(host, port)
    tolerance = load_settings(workspace / "params.yaml").evaluation.numeric_tolerance if (workspace / "params.yaml").is_file() else 0.0
    saved = SavedItems(workspace)
    chosen = list(names) or default_models(workspace)
    echo(f"loading {', '.join(chosen)}")
    with load_models(chosen, device=device, dtype=dtype, base=base) as models:
        url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        access = "with the user name and the password" if credentials else "without a password, from this machine only"
        app = make_app(models, saved, limits, host=host, credentials=credentials, tolerance=tolerance)
        config = uvicorn.Config(app, host=host, port=port, log_level="warning", access_log=False, timeout_graceful_shutdown=10)
        # `uvicorn.run` would swallow the interrupt, and with it the exit status.
        with sigterm_as_interrupt():
            _Server(config, lambda: echo(f"the page is at {url}/ ({access}); Ctrl-C stops it")).run()


class _Server(uvicorn.Server):
    """A server that says when it can be reached; the start-up of the application itself ends before the socket is open.

    Args:
        config: its configuration.
        started: called once it accepts connections.
    """

    def __init__(self, config: uvicorn.Config, started: Callable[[], None]) -> None:
        super().__init__(config)
        self._announce = started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Open the socket, then call `started`."""
        await super().startup(sockets)
        if self.started:
            self._announce()
