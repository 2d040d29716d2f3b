"""Working ahead: the next items are seen to in threads while the last one is used."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Done = TypeVar("Done")
_THREAD = threading.local()


class NotWantedError(Exception):
    """What this thread works on is not wanted any more."""


def work_ahead(
    work: Callable[[Item], Done], items: Iterable[Item], *, threads: int = 1, start: Callable[[], object] | None = None
) -> Generator[Done]:
    """Yield `work(item)` of every item in order, at most two for each thread finished or begun before they are asked for.

    An error in `work` is raised where its item is due. Close the generator (`contextlib.closing`) where the loop around it may be left
    early: it then ends its threads, each at the end of its item or where that calls `go_on`.

    Args:
        work: what is done with an item, in a thread.
        items: taken one by one, in the thread that iterates.
        threads: items that are worked on at once.
        start: called once in each thread before anything else.
    """
    left = threading.Event()

    def begin() -> None:
        _THREAD.left = left
        if start is not None:
            start()

    with ThreadPoolExecutor(threads, thread_name_prefix="work-ahead", initializer=begin) as pool:
        waiting: deque[Future[Done]] = deque()
        try:
            for item in items:
                waiting.append(pool.submit(work, item))
                if len(waiting) > 2 * threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            left.set()
            for future in waiting:
                future.cancel()


def go_on() -> None:
    """Return while this thread's work is wanted; any thread may call it.

    Raises:
        NotWantedError: the loop that asked for the work was left.
    """
    left: threading.Event | None = getattr(_THREAD, "left", None)
    if left is not None and left.is_set():
        raise NotWantedError
