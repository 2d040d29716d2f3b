"""Where a training run is recorded: a protocol, so that training does not know which tracking server stands behind it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal, Protocol

Status = Literal["finished", "failed", "killed"]


class Tracker(Protocol):
    """One run of an experiment tracker.

    The order of calls: `start`, then anything, then `finish`. A resumed training passes the id of its own earlier run to
    `start` and afterwards logs only steps above `last_step`, so no step is recorded twice.
    """

    @property
    def run_id(self) -> str:
        """Id of the open run."""

    @property
    def last_step(self) -> int:
        """The highest step whose metrics this run already holds; 0 when it holds none."""

    def start(self, name: str, *, tags: Mapping[str, str], run_id: str | None = None) -> None:
        """Open a run called `name`, or open `run_id` again where the server still knows it (else begin a new one)."""

    def log_params(self, params: Mapping[str, str | int | float | bool | None]) -> None:
        """Record parameters, named with dots; logging the same value again changes nothing."""

    def log_inputs(self, inputs: Mapping[str, str]) -> None:
        """Record the data that the run reads: name → SHA-256."""

    def log_metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        """Record the metrics of one optimizer step (1 = first) as a whole."""

    def log_release(self, folder: Path) -> None:
        """Record a finished release folder as the run's model."""

    def describe(self) -> dict[str, str]:
        """Return what finds the run again (`run_id`, `experiment`, `tracking_uri`…): the content of `run.json`."""

    def finish(self, status: Status) -> None:
        """Close the run."""


class NullTracker:
    """Records nothing."""

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
        """Return the run's id alone."""
        return {"run_id": self.run_id}

    def finish(self, status: Status) -> None:
        """Do nothing."""
