"""The records of a training run: an experiment tracker, behind a protocol, and the history file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Protocol

from coat_core.storage import write_text

Status = Literal["finished", "failed", "killed"]


class Tracker(Protocol):
    """One run of an experiment tracker.

    `start` is called first and `finish` last. A resumed training passes the id of its earlier run to `start` and then logs only
    steps above `last_step`, so no step is recorded twice.
    """

    @property
    def run_id(self) -> str:
        """Id of the active run."""

    @property
    def last_step(self) -> int:
        """The highest step whose metrics are already recorded in this run; 0 without any."""

    def start(self, name: str, *, tags: Mapping[str, str], run_id: str | None = None) -> None:
        """Start a run called `name`, or continue `run_id` if the server still has that run."""

    def log_params(self, params: Mapping[str, str | int | float | bool | None]) -> None:
        """Record parameters by dotted name; logging the same value again changes nothing."""

    def log_inputs(self, inputs: Mapping[str, str]) -> None:
        """Record the input data of the run: name → SHA-256."""

    def log_metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        """Record all metrics of one optimizer step (1 = first)."""

    def log_release(self, folder: Path) -> None:
        """Record a release folder as the model of the run."""

    def describe(self) -> dict[str, str]:
        """Return the identity of the run (`run_id`, `experiment`, `tracking_uri`…): the content of `run.json`."""

    def finish(self, status: Status) -> None:
        """End the run with a status."""


class NullTracker:
    """A tracker that records nothing."""

    run_id = "untracked"
    last_step = 0

    def start(self, name: str, *, tags: Mapping[str, str], run_id: str | None = None) -> None:
        """Do nothing."""

    def log_params(self, params: Mapping[str, str | int | float | bool | None]) -> None:
        """Do nothing."""

    def log_inputs(self, inputs: Mapping[str, str]) -> None:
        """Do nothing."""

    def log_metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        """Do nothing."""

    def log_release(self, folder: Path) -> None:
        """Do nothing."""

    def describe(self) -> dict[str, str]:
        """Return the id of the run."""
        return {"run_id": self.run_id}

    def finish(self, status: Status) -> None:
        """Do nothing."""


class History:
    """The history file of a run: one JSON line for each optimizer step, whose numbers also go to the tracker.

    Args:
        path: path of the JSON Lines file; None records nothing (every process but the first).
        tracker: receives the numbers of each step above its `last_step`.
    """

    def __init__(self, path: Path | None, tracker: Tracker) -> None:
        self._path, self._tracker = path, tracker

    def truncate(self, steps: int) -> None:
        """Keep the rows of the first `steps` steps, and remove a row that was cut off by a kill.

        The kept rows are also sent to the tracker, because it may have started a new run.
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
