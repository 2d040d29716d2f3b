"""What the commands print to the terminal, and how they end."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import typer

RESUMES = "completed work is kept, and the same command resumes"


def say(text: str) -> None:
    """Print to standard output at once, also into a pipe; what the encoding of the terminal lacks is escaped."""
    encoding = sys.stdout.encoding or "utf-8"
    typer.echo(text.encode(encoding, "backslashreplace").decode(encoding))
    sys.stdout.flush()


def account() -> str:
    """Return the name of the user's account; empty if it has none, as in some containers."""
    import getpass

    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return ""


@contextmanager
def report_end(message: str) -> Iterator[None]:
    """Print a message on Ctrl-C or SIGTERM and exit with status 130 or 143; Typer itself would exit without a message."""
    try:
        yield
    except KeyboardInterrupt as error:
        from coat_core.servers import Stopped

        typer.secho(f"coat: stopped; {message}", err=True, fg=typer.colors.YELLOW)
        raise typer.Exit(143 if isinstance(error, Stopped) else 130) from None
