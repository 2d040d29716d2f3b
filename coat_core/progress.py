"""Progress of a long loop: a tqdm bar on stderr, and a small file that the flow reads and shows while the stage runs."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

PROGRESS = "COAT_PROGRESS"
"""Environment variable with the path of the file; without it, only the bar is shown."""
INTERVAL_S = 0.5
"""Least time between two writes of the file."""


@dataclass(frozen=True)
class Progress:
    """How far a loop is.

    Attributes:
        title: what the loop does.
        unit: what it counts, e.g. `step`.
        done: items that are done, those of an earlier, stopped attempt included.
        total: all items; 0: not known.
        initial: items that an earlier attempt had done.
        elapsed_s: time since the loop began, s.
        numbers: further numbers to show, e.g. the loss.
    """

    title: str
    unit: str
    done: int
    total: int
    initial: int = 0
    elapsed_s: float = 0.0
    numbers: dict[str, float] = field(default_factory=dict)

    @property
    def share(self) -> float:
        """Share of the items that are done, 0 to 1."""
        return min(1.0, self.done / self.total) if self.total > 0 else 0.0

    @property
    def remaining_s(self) -> float | None:
        """Estimated time to the end at the mean rate of this attempt, s; None before its first item."""
        own = self.done - self.initial
        return self.elapsed_s / own * max(0, self.total - self.done) if own > 0 and self.total > 0 else None

    def write(self, path: Path) -> None:
        """Replace the file; a reader finds the old or the new content."""
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        temporary.write_text(json.dumps(asdict(self)))
        temporary.replace(path)

    @staticmethod
    def read(path: Path) -> Progress | None:
        """Return the content of a file; None if there is none, or if it is damaged."""
        try:
            return Progress(**json.loads(path.read_text()))
        except (OSError, ValueError, TypeError):
            return None


class ProgressBar(tqdm):  # type: ignore[misc]
    """A tqdm bar that also writes `Progress` to the file named by the environment, at most every `INTERVAL_S`.

    The file is written where tqdm shows no bar too (no terminal). A file that cannot be written never stops the loop. No output of a
    stage depends on it.
    """

    def __init__(
        self, iterable: Iterable[Any] | None = None, *, recorded: bool = True, clock: Callable[[], float] = time.monotonic, **options: Any
    ) -> None:
        super().__init__(iterable, **options)
        path = os.environ.get(PROGRESS) if recorded else None
        total = options.get("total")
        if total is None and hasattr(iterable, "__len__"):
            total = len(iterable)  # type: ignore[arg-type]
        self._file = Path(path) if path else None
        self._clock, self._began, self._written = clock, clock(), float("-inf")
        self._first = self._done = int(options.get("initial") or 0)
        self._title, self._unit, self._total = str(options.get("desc") or ""), str(options.get("unit") or "item"), int(total or 0)
        self._numbers: dict[str, float] = {}
        self._record()

    def __iter__(self) -> Iterator[Any]:
        for item in super().__iter__():
            yield item
            self._advance(1)
        self._record(last=True)

    def update(self, n: float | None = 1) -> bool | None:
        """Count items that were done."""
        self._advance(int(n or 0))
        shown: bool | None = super().update(n)
        return shown

    def start_at(self, done: int) -> None:
        """Set the items that an earlier attempt had done; they do not count for the rate."""
        self._first = self._done = done
        self.initial = self.n = self.last_print_n = done

    def note(self, **numbers: float) -> None:
        """Set the numbers that the file holds with the next count."""
        self._numbers = numbers

    def close(self) -> None:
        """End the bar and write the last count."""
        self._record(last=True)
        super().close()

    def _advance(self, items: int) -> None:
        self._done += items
        self._record()

    def _record(self, *, last: bool = False) -> None:
        # tqdm's destructor calls `close` for an object whose constructor failed.
        file = getattr(self, "_file", None)
        if file is None or (not last and self._clock() - self._written < INTERVAL_S):
            return
        self._written = self._clock()
        with suppress(OSError):
            Progress(
                self._title, self._unit, self._done, self._total, self._first, self._clock() - self._began, self._numbers
            ).write(file)  # fmt: skip
