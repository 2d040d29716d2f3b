from __future__ import annotations

import threading
import time

import pytest

from coat_core.experts.prefetch import PrefetchCancelledError, check_cancelled, prefetch


@pytest.mark.parametrize("threads", [1, 3])
def test_order_is_kept_and_at_most_two_items_per_thread_are_prefetched(threads: int) -> None:
    began: list[int] = []

    def square(item: int) -> int:
        began.append(item)
        time.sleep(0.001 * (item % 3))
        return item * item

    for number, result in enumerate(prefetch(square, range(40), threads=threads)):
        assert result == number * number
        assert len(began) <= number + 2 * threads + 1
    assert sorted(began) == list(range(40))


def test_an_error_is_raised_at_its_item() -> None:
    results = prefetch(lambda item: 1 // (item - 3), range(9), threads=2)
    assert [next(results) for _ in range(3)] == [-1, -1, -1]
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_a_closed_generator_cancels_its_threads() -> None:
    check_cancelled()
    cancelled: list[int] = []

    def work(item: int) -> int:
        if item == 0:
            return item
        try:
            while True:
                check_cancelled()
                time.sleep(0.001)
        except PrefetchCancelledError:
            cancelled.append(item)
            raise

    results = prefetch(work, range(9), threads=1)
    assert next(results) == 0
    results.close()
    assert cancelled in ([], [1])
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("prefetch")]
