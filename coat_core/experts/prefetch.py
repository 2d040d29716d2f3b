"""Reading ahead: the next items are read in a thread while the last one is worked on."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Read = TypeVar("Read")


def read_ahead(read: Callable[[Item], Read], items: Iterable[Item], ahead: int = 2) -> Generator[Read]:
    """Yield `read(item)` of every item in order, at most `ahead` of them finished or begun before they are asked for.

    An error in `read` is raised where its item is due. Close the generator (`contextlib.closing`) where the
    loop around it may be left early: it then ends its thread, after the read that is under way.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="read-ahead") as pool:
        waiting: deque[Future[Read]] = deque()
        try:
            for item in items:
                waiting.append(pool.submit(read, item))
                if len(waiting) > ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
