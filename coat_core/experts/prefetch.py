"""Ordered prefetching with a thread pool."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")
_THREAD = threading.local()


class PrefetchCancelledError(Exception):
    """The generator that this thread computes items for was closed."""


def prefetch(
    function: Callable[[Item], Result], items: Iterable[Item], *, threads: int = 1, initializer: Callable[[], object] | None = None
) -> Generator[Result]:
    """Yield `function(item)` of every item in order, computed up to two items per thread before they are requested.

    An error in `function` is raised when its item is requested. If the loop over the generator may end early, close the generator
    (`contextlib.closing`): its threads then end after their current item, or earlier if `function` calls `check_cancelled`.

    Args:
        function: called in a thread.
        items: iterated one by one in the thread that iterates the generator.
        threads: number of threads.
        initializer: called once in each thread before anything else.
    """
    cancelled = threading.Event()

    def initialize() -> None:
        _THREAD.cancelled = cancelled
        if initializer is not None:
            initializer()

    with ThreadPoolExecutor(threads, thread_name_prefix="prefetch", initializer=initialize) as pool:
        waiting: deque[Future[Result]] = deque()
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) > 2 * threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            cancelled.set()
            for future in waiting:
                future.cancel()


def check_cancelled() -> None:
    """Raise an error if the result of this thread is no longer needed. Outside the threads of `prefetch` this does nothing.

    Raises:
        PrefetchCancelledError: the generator that this thread computes items for was closed.
    """
    cancelled: threading.Event | None = getattr(_THREAD, "cancelled", None)
    if cancelled is not None and cancelled.is_set():
        raise PrefetchCancelledError
