"""Start the commands that show pages, and wait for the address of each."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.testing import chain_runs

ADDRESS = re.compile(r"http://127\.0\.0\.1:\d+\S*")


@contextmanager
def pages(command: Sequence[str], folder: Path, ready: str) -> Iterator[list[str]]:
    """Run a command that shows pages within the block; give the loopback addresses that it printed.

    Args:
        command: program and arguments.
        folder: where it runs.
        ready: text that it prints once its pages can be opened.
    """
    log = folder / ".scratch/pages.log"
    log.parent.mkdir(exist_ok=True)
    with log.open("wb") as output:
        process = subprocess.Popen(command, cwd=folder, stdout=output, stderr=subprocess.STDOUT, env=chain_runs.environment())
    try:
        chain_runs.wait_for(lambda: ready in log.read_text() or process.poll() is not None)
        if process.poll() is not None:
            raise SystemExit(f"{' '.join(command)} has ended:\n{log.read_text()[-3000:]}")
        yield ADDRESS.findall(log.read_text())
    finally:
        process.terminate()
        process.wait()
