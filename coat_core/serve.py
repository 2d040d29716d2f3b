"""`coat serve`: one registered version over HTTP, in a process of its own (`coat_core.serving`)."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from coat_core.errors import RegistryError, StageError
from coat_core.servers import LOOPBACK, check_port, server_process, sigterm_as_interrupt, wait_for_an_end, wait_until_up
from coat_core.serving.limits import Limits

START_S = 3600.0
"""Time for the server to load and merge a full-size model from a slow disk."""


def serve(
    model: str,
    port: int,
    *,
    host: str = LOOPBACK,
    device: str = "cpu",
    dtype: str | None = None,
    limits: Limits | None = None,
    workspace: Path = Path(),
    echo: Callable[[str], None] = print,
) -> None:
    """Serve a registered version over HTTP until SIGINT or SIGTERM.

    The server is stopped after every accepted question has its answer.

    Args:
        model: `models:/name@alias` or `models:/name/version` (both also without `models:/`).
        port: TCP port.
        host: address of the interface.
        device: `cpu` or `cuda`.
        dtype: `float32`, `bfloat16` or `float16`; None: as in training.
        limits: limits of the server; None: the defaults.
        workspace: folder of MLflow's records.
        echo: prints one line.

    Raises:
        CoatError: the version does not exist, or the address cannot be used; nothing was started.
        StageError: the server ended.
    """
    from coat_core.device import check_device
    from coat_core.registry.database import tracking_uri
    from coat_core.registry.references import model_uri

    uri = model_uri(model, workspace)
    if uri is None:
        raise RegistryError(
            "only a registered version can be served", field="model", value=model, allowed="models:/NAME@ALIAS or models:/NAME/VERSION",
            next_step="register the release first: coat register BACKBONE TRIAL",
        )  # fmt: skip
    limits = limits or Limits()
    check_device(device, "--device")
    check_port(host, port)
    environment = {
        **os.environ,
        "MLFLOW_TRACKING_URI": tracking_uri(workspace),
        "COAT_DEVICE": device,
        **({"COAT_DTYPE": dtype} if dtype else {}),
    }
    command = [sys.executable, "-m", "coat_core.serving", uri, host, str(port), json.dumps(asdict(limits))]
    with sigterm_as_interrupt(), server_process(command, environment, None, grace_s=limits.timeout_s) as server:
        url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        if wait_until_up(server, f"{url.replace('0.0.0.0', LOOPBACK)}/ping", limit_s=START_S):
            echo(f"{uri} is served at {url}/v1/chat/completions and {url}/invocations (health: {url}/ping); Ctrl-C stops it")
            echo(f"curl {url}/invocations -H 'Content-Type: application/json' \\")
            echo("""  -d '{"dataframe_records": [{"audio": "/data/clip.wav", "question": "What do you hear?"}]}'""")
            wait_for_an_end([server])
        raise StageError(
            f"the scoring server ended with status {server.returncode}" if server.returncode is not None else "the server did not start",
            field="model", value=uri, next_step="read its output above",
        )  # fmt: skip
