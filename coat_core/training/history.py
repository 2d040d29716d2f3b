"""One JSON line per optimizer step, beside the checkpoints, and the same to the tracker; no step ever stands twice."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from coat_core.storage import write_text
from coat_core.training.tracker import Tracker


class History:
    """The rows of a run's steps.

    Args:
        path: of the JSON Lines file; None records nothing (every process but the first).
        tracker: gets the numbers of each step that it does not hold yet.
    """

    def __init__(self, path: Path | None, tracker: Tracker) -> None:
        self._path, self._tracker = path, tracker

    def truncate(self, steps: int) -> None:
        """Keep the rows of the first `steps` steps, all that a checkpoint knows of; a row cut off by a kill goes too.

        A tracker that had to begin a new run is told what it missed.
        """
        if self._path is None:
            return
        kept = [line for line in self._lines() if _step(line) <= steps]
        write_text(self._path, "".join(line + "\n" for line in kept))
        for line in kept:
            self._track(json.loads(line))

    def append(self, row: Mapping[str, Any]) -> None:
        """Record one step."""
        if self._path is None:
            return
        with self._path.open("a") as stream:
            stream.write(json.dumps(row, allow_nan=False) + "\n")
        self._track(row)

    def _track(self, row: Mapping[str, Any]) -> None:
        if row["step"] > self._tracker.last_step:
            numbers = {key: value for key, value in row.items() if key != "step" and isinstance(value, int | float)}
            self._tracker.log_metrics(row["step"], numbers)

    def _lines(self) -> list[str]:
        assert self._path is not None
        return self._path.read_text().splitlines() if self._path.is_file() else []


def _step(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")
