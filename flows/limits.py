"""Which stages may run side by side: at most `jobs`, one at a time on the accelerator, and measurements of latency alone."""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager

from coat_core.errors import Interrupted
from coat_core.settings import Settings
from coat_core.settings.suites import LOCAL

ALONE = ("latency", "latency_described")
"""Kinds of stage that measure time and therefore need the machine for themselves."""
ON_DEVICE = ("audio", "train", "answer", "answer_suite", "probe", "latency", "latency_described", "report")
"""Kinds of stage that compute on `runtime.device`; with a local judge, `score_suite` does so, too."""


class StageLimits:
    """Slots for stages. A stage waits for its slot in a thread of its own.

    The first stages of the graph come first. A stage of a kind in `ALONE` starts when no other stage runs or waits for a slot, so that
    the machine is cleared for measurements once, after the other work, and not once for each backbone. Nothing starts while it runs.

    Stages that compute on the accelerator run one at a time: two trainings of a 7B model do not fit on one device, and which of them
    fails would depend on which started first.

    Args:
        order: the names of all stages, in graph order.
        jobs: how many stages may run side by side.
        accelerated: stages of which only one may run at a time.
    """

    def __init__(self, order: Sequence[str], *, jobs: int, accelerated: Collection[str] = ()) -> None:
        assert jobs >= 1
        self._rank = {name: rank for rank, name in enumerate(order)}
        self._jobs, self._accelerated = jobs, frozenset(accelerated)
        self._changed = threading.Condition()
        self._waiting: set[str] = set()
        self._running: set[str] = set()
        self._closed = False

    @contextmanager
    def slot(self, name: str) -> Iterator[None]:
        """Wait until a stage may run and count it as running until the block ends.

        Raises:
            Interrupted: the run is being stopped.
        """
        with self._changed:
            self._waiting.add(name)
            self._changed.notify_all()
            try:
                self._changed.wait_for(lambda: self._closed or name in self._startable())
                if self._closed:
                    raise Interrupted("the run is being stopped", next_step="run the same command again; it resumes")
                self._running.add(name)
            finally:
                self._waiting.discard(name)
                self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                self._running.discard(name)
                self._changed.notify_all()

    def close(self) -> None:
        """Give no more slots; every stage that waits for one is interrupted."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _startable(self) -> list[str]:
        return startable(sorted(self._waiting, key=self._rank.__getitem__), self._running, jobs=self._jobs, accelerated=self._accelerated)


def startable(waiting: Sequence[str], running: Collection[str], *, jobs: int, accelerated: Collection[str] = ()) -> list[str]:
    """Return which of the waiting stages may start now, in the given order.

    Args:
        waiting: stages whose upstream stages have completed, in order of preference.
        running: stages that run now.
        jobs: how many stages may run side by side.
        accelerated: stages of which only one may run at a time.
    """
    if any(map(_is_alone, running)):
        return []
    together: list[str] = []
    device_free = not any(name in accelerated for name in running)
    for name in waiting:
        if _is_alone(name) or len(running) + len(together) >= jobs or (name in accelerated and not device_free):
            continue
        together.append(name)
        device_free = device_free and name not in accelerated
    if together or running:
        return together
    return [name for name in waiting if _is_alone(name)][:1]


def accelerated_stages(names: Collection[str], settings: Settings) -> frozenset[str]:
    """Return the stages that compute on the accelerator."""
    experts = {f"features@{key}" for key, expert in settings.experts.items() if expert.device != "cpu"}
    if settings.runtime.device == "cpu":
        return frozenset(experts.intersection(names))
    judged = tuple(f"-{key}" for key, suite in settings.evaluation.suites.items() if suite.judge == LOCAL)
    return frozenset(
        name
        for name in names
        if name in experts or name.split("@")[0] in ON_DEVICE or (name.startswith("score_suite@") and name.endswith(judged))
    )


def _is_alone(name: str) -> bool:
    return name.split("@")[0] in ALONE
