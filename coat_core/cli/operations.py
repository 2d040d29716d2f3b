"""The commands for those who keep the system running: results of several hosts, retention, deployments."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from coat_core.console import say

app = typer.Typer()
_PANEL = "Operation"
_Part = StrEnum("_Part", ["scratch", "versions", "cache"])
"""What `coat prune` looks at; as `flows.pruning.PARTS`, which is not imported for `--help`."""


@app.command(rich_help_panel=_PANEL)
def pull() -> None:
    """Take over from DVC's default remote what other hosts have computed for the same graph, params and code; `coat run` does so itself."""
    _share(store=False)


@app.command(rich_help_panel=_PANEL)
def push() -> None:
    """Store the results of this workspace in DVC's default remote, for `coat pull` and `coat run` on other hosts."""
    _share(store=True)


@app.command(rich_help_panel=_PANEL)
def prune(
    parts: Annotated[list[_Part] | None, typer.Argument(help="what to look at; default: all")] = None,
    older_than: Annotated[int, typer.Option(min=0, metavar="DAYS", help="age of scratch and of withdrawn or superseded versions")] = 30,
    apply: Annotated[bool, typer.Option("--apply", help="remove it; without this, nothing is changed")] = False,
    workspace: Annotated[
        list[Path] | None, typer.Option(help="a further workspace whose results stay in the cache, if none of its runs has recorded it")
    ] = None,
) -> None:
    """List what is no longer needed, with its bytes, or remove it: old scratch, unused objects of the DVC cache, old versions."""
    from flows.pruning import PARTS
    from flows.pruning import prune as prune_workspace

    prune_workspace(Path(), days=older_than, parts=parts or PARTS, apply=apply, also=workspace or (), echo=say)


@app.command(rich_help_panel=_PANEL)
def deploy(
    lost_after: Annotated[
        int,
        typer.Option(
            min=90, metavar="SECONDS", help="time without a heartbeat after which a run is marked as crashed; default: five heartbeats"
        ),
    ] = 300,
) -> None:
    """Create or update, on the Prefect server in PREFECT_API_URL, the deployments of prefect.yaml and the automations around them.

    The address of a webhook for failed and late runs is read from COAT_NOTIFY_URL. The same command again changes nothing.
    """
    from flows.deployments import deploy as deploy_all

    deploy_all(lost_after_s=lost_after, echo=say)


def _share(*, store: bool) -> None:
    from coat_core.errors import CoatError
    from flows.lock import hold_workspace
    from flows.sharing import find_remote, pull, push

    remote = find_remote(Path())
    if remote is None:
        raise CoatError(
            "DVC has no default remote here", field="core.remote", next_step="dvc remote add --local -d NAME s3://bucket/prefix"
        )
    with hold_workspace(Path()):
        if store:
            push(Path(), remote)
            typer.echo(f"results stored in {remote.name}")
        else:
            typer.echo(f"{pull(Path(), remote)} stages taken over from {remote.name}")
