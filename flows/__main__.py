"""`python -m flows run` and `python -m flows server`: what `coat run` becomes."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from coat_core.errors import CoatError

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


@app.command()
def run(jobs: Annotated[int | None, typer.Option(min=1, help="stages side by side")] = None) -> None:
    """Run the chain in the current workspace."""
    from flows.main import run_chain

    try:
        run_chain(Path(), jobs)
    except KeyboardInterrupt:
        # Caught here: Typer would end with the same code and say nothing.
        typer.secho("coat: stopped; what was finished is kept, and coat run goes on from there", err=True, fg=typer.colors.YELLOW)
        raise typer.Exit(130) from None


@app.command()
def server(port: Annotated[int, typer.Option(help="loopback port")]) -> None:
    """Run a Prefect server that ends with its owner."""
    from flows.server import serve

    serve(port)


if __name__ == "__main__":
    try:
        app()
    except CoatError as error:
        typer.secho(f"coat: {error}", err=True, fg=typer.colors.RED)
        sys.exit(1)
