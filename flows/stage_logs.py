"""Structured logs of a run (`COAT_LOG=json`): Prefect's lines, and those that the stages write to their log files."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from coat_core import logs

_POLL_S = 0.5


def structure_logs() -> None:
    """Write structured logs in this process, if the environment asks for them, with the id of the flow run that is active.

    Call it after Prefect was imported: Prefect sets up its own handlers then.

    Raises:
        CoatError: `COAT_LOG` has an invalid value.
    """
    if not logs.start():
        return
    from prefect.runtime import flow_run

    logs.replace_console_handlers()
    if flow_run.id:
        logs.bind(run=str(flow_run.id))


class StageLogs:
    """Passes on what the running stages write to their log files; without structured logs it does nothing."""

    @contextmanager
    def follow(self, stage: str, log: Path) -> Iterator[None]:
        """Within the block, pass on the lines of a stage's log file, which is made anew."""
        if not logs.active():
            yield
            return
        log.unlink(missing_ok=True)
        ended = threading.Event()
        thread = threading.Thread(target=_follow, args=(stage, log, ended), daemon=True, name=f"log of {stage}")
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()


def pass_on(stage: str, line: str) -> None:
    """Write a line of a stage: one that is structured as it is, any other one (DVC's, a library's) as an event `output`."""
    try:
        keys = json.loads(line)
    except ValueError:
        keys = None
    if isinstance(keys, dict) and set(logs.KEYS) <= keys.keys():
        logs.write(line)
    elif line.strip():
        logs.event("output", line.strip(), stage=stage)


def _follow(stage: str, log: Path, ended: threading.Event) -> None:
    position, rest = 0, b""
    while True:
        last = ended.wait(_POLL_S)
        if log.is_file():
            with log.open("rb") as stream:
                stream.seek(position)
                data = stream.read()
            position += len(data)
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                pass_on(stage, line.decode(errors="replace"))
        if last:
            pass_on(stage, rest.decode(errors="replace"))
            return
