"""The progress of the running stages: one live line for each on a terminal, and lines now and then in a log."""

from __future__ import annotations

import io
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.text import Text

from coat_core import logs
from coat_core.progress import Progress

LINE_EVERY_S = 30.0
"""Least time between two lines of a stage in a log."""
LINE_AT_LEAST_EVERY_S = 120.0
"""A stage that has progressed by less than `SHARE_STEP` gets a line this often."""
SHARE_STEP = 0.1
_POLL_S = 1.0


def duration(seconds: float) -> str:
    """Return a duration in words: `45 s`, `3 min 05 s`, `2 h 10 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def progress_line(name: str, elapsed_s: float, progress: Progress | None) -> str:
    """Return the line of one running stage.

    Args:
        name: the stage.
        elapsed_s: time since the stage began, s.
        progress: what it has reported; None: nothing.
    """
    if progress is None or progress.total <= 0:
        return f"{name}  {duration(elapsed_s)}"
    counted = f"{progress.unit} {progress.done}/{progress.total}  {progress.share:.0%}"
    numbers = [f"{key} {value:.3f}" for key, value in progress.numbers.items()]
    remaining = progress.remaining_s
    eta = ["almost done"] if progress.done >= progress.total else [f"ETA {duration(remaining)}"] if remaining is not None else []
    return "  ".join([name, counted, *numbers, duration(elapsed_s), *eta])


@dataclass
class _Running:
    """A running stage."""

    name: str
    file: Path
    began: float
    last_line: float
    last_share: float = 0.0

    def line(self, now: float) -> str:
        return progress_line(self.name, now - self.began, Progress.read(self.file))

    def due(self, now: float) -> str | None:
        """Return the line to log now; None if it is too early. A returned line counts as logged."""
        since = now - self.last_line
        progress = Progress.read(self.file)
        share = progress.share if progress else 0.0
        if since < LINE_EVERY_S or (since < LINE_AT_LEAST_EVERY_S and share - self.last_share < SHARE_STEP):
            return None
        self.last_line, self.last_share = now, share
        return progress_line(self.name, now - self.began, progress)


class ProgressDisplay:
    """Shows the running stages while it is open.

    Args:
        folder: folder of the stages' progress files.
        logger: receives the lines where there is no terminal.
        console: the terminal; default: the console of Prefect's log, so that log lines stay above the live lines.
        clock: seconds, increasing.
    """

    def __init__(
        self,
        folder: Path,
        logger: logging.Logger | logging.LoggerAdapter[Any],
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._folder, self._logger, self._clock = folder, logger, clock
        self._console = console or _log_console()
        self._running: dict[str, _Running] = {}
        self._lock = threading.Lock()
        self._ended = threading.Event()

    @contextmanager
    def open(self) -> Iterator[None]:
        """Show progress within the block."""
        if self._console.is_terminal and not self._console.is_dumb_terminal:
            with Live(get_renderable=self.render, console=self._console, refresh_per_second=2, transient=True):
                yield
            return
        thread = threading.Thread(target=self._log_until_end, daemon=True, name="progress")
        thread.start()
        try:
            yield
        finally:
            self._ended.set()
            thread.join()

    @contextmanager
    def stage(self, name: str) -> Iterator[Path]:
        """Show one stage within the block; yield the path of its progress file."""
        file = (self._folder / f"{name}.json").resolve()
        file.parent.mkdir(parents=True, exist_ok=True)
        file.unlink(missing_ok=True)
        now = self._clock()
        with self._lock:
            self._running[name] = _Running(name, file, now, now)
        try:
            yield file
        finally:
            with self._lock:
                del self._running[name]
            file.unlink(missing_ok=True)

    def render(self) -> Text:
        """Return one line for each running stage, in the order of their starts."""
        now = self._clock()
        with self._lock:
            lines = [running.line(now) for running in self._running.values()]
        return Text("\n".join(lines), no_wrap=True, overflow="ellipsis")

    def log_lines(self) -> list[str]:
        """Return the lines that are due in a log now."""
        now = self._clock()
        with self._lock:
            found = [running.due(now) for running in self._running.values()]
        return [line for line in found if line is not None]

    def _log_until_end(self) -> None:
        while not self._ended.wait(_POLL_S):
            for line in self.log_lines():
                # The first word of a line is its stage.
                self._logger.info("%s", line, extra=logs.fields("progress", stage=line.partition("  ")[0]))


def _log_console() -> Console:
    if logs.active():
        return Console(file=io.StringIO(), force_terminal=False)
    for logger in (logging.getLogger(name) for name in (None, "prefect", "prefect.flow_runs")):
        for handler in logger.handlers:
            console = getattr(handler, "console", None)
            if isinstance(console, Console):
                return console
    return Console(stderr=True)
