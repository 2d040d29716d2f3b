"""Progress artifacts of the run page: one for each task run, in percent, with what the stage reports as its description.

One thread sends them, at a bounded rate. No stage waits for it: a server that is slow or away costs a stage nothing.
"""

from __future__ import annotations

import contextvars
import logging
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import ArtifactCreate, ArtifactUpdate
from prefect.runtime import flow_run, task_run
from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings

from coat_core.progress import Progress
from flows.progress import LINE_AT_LEAST_EVERY_S, duration, progress_line

UPDATE_EVERY_S = 10.0
"""Least time between two updates of one artifact; its last update, at 100, is sent at once."""
CLOSE_LIMIT_S = 10.0
"""Time for the last updates once all stages have ended."""
_REQUEST_S = 5.0
_POLL_S = 1.0


def artifact_key(stage: str) -> str:
    """Return the key of a stage's artifact, the same in every run; Prefect allows lower-case letters, digits and dashes."""
    return "progress-" + re.sub(r"[^a-z0-9]+", "-", stage.lower()).strip("-")


@dataclass
class _Shown:
    """The artifact of one stage; a repeated stage keeps it."""

    stage: str
    flow_run: UUID
    task_run: UUID
    file: Path
    began: float
    artifact: UUID | None = None
    percent: float | None = None
    """The last value that was sent."""
    tried: float = float("-inf")
    """When the last request was made."""
    failed: bool = False
    """Whether the last request failed."""
    completed_s: float | None = None

    def due(self, now: float, *, last: bool) -> tuple[float, str] | None:
        """Return percent and description to send now; None if there is nothing new, or if it is too early.

        Args:
            now: time of the clock, s.
            last: there will be no later update.
        """
        since = now - self.tried
        if self.completed_s is not None:
            wait = self.percent == 100 or (self.failed and since < UPDATE_EVERY_S and not last)
            return None if wait else (100.0, f"{self.stage}  completed in {duration(self.completed_s)}")
        progress = Progress.read(self.file)
        if progress is None or since < UPDATE_EVERY_S:
            return None
        # A stage may have several loops: 100 means that it has completed.
        percent = float(min(99, int(100 * progress.share)))
        if percent == self.percent and since < LINE_AT_LEAST_EVERY_S:
            return None
        return percent, progress_line(progress.title or self.stage, now - self.began, progress)


class ProgressArtifacts:
    """Shows the progress of the stages on the run page while it is open.

    A stage has an artifact from its first progress file on, or from its end if it wrote none. A stage that DVC skips writes no file and is
    not reported as completed: it has no artifact.

    Args:
        logger: receives one line when the artifacts cannot be written.
        clock: seconds, increasing.
        client: makes the client of the API.
    """

    def __init__(
        self,
        logger: logging.Logger | logging.LoggerAdapter[Any],
        clock: Callable[[], float] = time.monotonic,
        client: Callable[[], AbstractContextManager[SyncPrefectClient]] | None = None,
    ) -> None:
        self._logger, self._clock = logger, clock
        self._new_client = client or (lambda: get_client(sync_client=True, httpx_settings={"timeout": _REQUEST_S}))
        self._shown: dict[str, _Shown] = {}
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._reported = False

    @contextmanager
    def open(self) -> Iterator[None]:
        """Send artifacts within the block, and at its end, for `CLOSE_LIMIT_S` at most, what is left."""
        # The thread uses the settings of this one: the address of the API is among them.
        context = contextvars.copy_context()
        thread = threading.Thread(target=context.run, args=(self._send_until_end,), daemon=True, name="progress artifacts")
        thread.start()
        try:
            yield
        except Exception:
            self._close(thread)
            raise
        except BaseException:
            # The run is being stopped: its stages are to be ended first.
            self._ended.set()
            raise
        self._close(thread)

    def follow(self, stage: str, file: Path) -> None:
        """Show a stage of the active task run from now on; without a task run, nothing.

        Args:
            stage: its name.
            file: its progress file.
        """
        run, task = flow_run.id, task_run.id
        if not (run and task):
            return
        with self._lock:
            known = self._shown.get(stage)
            artifact = known.artifact if known else None
            self._shown[stage] = _Shown(stage, UUID(str(run)), UUID(str(task)), file, self._clock(), artifact)

    def complete(self, stage: str, seconds: float) -> None:
        """Record that a stage ran to its end."""
        with self._lock:
            if stage in self._shown:
                self._shown[stage].completed_s = seconds

    def send(self, client: SyncPrefectClient, *, last: bool = False) -> None:
        """Send what is due now. A request that fails is reported once, and repeated when the next update is due.

        Args:
            client: of the API.
            last: there will be no later call.
        """
        with self._lock:
            shown = list(self._shown.values())
        for item in shown:
            if (due := item.due(self._clock(), last=last)) is None:
                continue
            item.tried = self._clock()
            try:
                _send(client, item, *due)
            except Exception as error:
                item.failed = True
                self._report(error)
            else:
                item.failed = False

    def _close(self, thread: threading.Thread) -> None:
        self._ended.set()
        thread.join(CLOSE_LIMIT_S)

    def _send_until_end(self) -> None:
        try:
            # Prefect's own repetitions would keep the other stages waiting.
            with temporary_settings(updates={PREFECT_CLIENT_MAX_RETRIES: 0}), self._new_client() as client:
                while not self._ended.wait(_POLL_S):
                    self.send(client)
                self.send(client, last=True)
        except Exception as error:
            self._report(error)

    def _report(self, error: Exception) -> None:
        if not self._reported:
            self._reported = True
            self._logger.warning("the run page does not show the progress of all stages: %s", str(error) or type(error).__name__)


def _send(client: SyncPrefectClient, item: _Shown, percent: float, description: str) -> None:
    if item.artifact is None:
        request = ArtifactCreate(
            type="progress", key=artifact_key(item.stage), description=description, data=percent, flow_run_id=item.flow_run,
            task_run_id=item.task_run,
        )  # fmt: skip
        item.artifact = client.create_artifact(request).id
    else:
        client.update_artifact(item.artifact, ArtifactUpdate(data=percent, description=description))
    item.percent = percent
