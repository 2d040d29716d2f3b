"""Jobs are answered in batches, in order, and none is lost when the server ends."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import numpy as np

from coat_core.backbones.base import Query
from coat_core.serving.batcher import Batcher, Job, Reply
from tests.testing.chain_runs import HANG_S


def job(text: str) -> Job:
    return Job(Query("k", np.zeros(8, np.float32), text), 4)


class Gate:
    """Waits at its first batch."""

    def __init__(self) -> None:
        self.entered, self.gate = threading.Event(), threading.Event()
        self.batches: list[list[str]] = []

    def __call__(self, jobs: Sequence[Job]) -> list[Reply]:
        self.entered.set()
        assert self.gate.wait(HANG_S)
        self.batches.append([job.query.text for job in jobs])
        return [Reply(job.query.text, True, 1, 1) for job in jobs]


def test_waiting_jobs_form_batches_in_order_and_are_answered_before_the_end() -> None:
    gate, sizes = Gate(), list[int]()
    batcher = Batcher(gate, 2, sizes.append)
    first = batcher.submit(job("first"))
    assert gate.entered.wait(HANG_S)
    others = [batcher.submit(job(str(number))) for number in range(5)]
    assert others[1].cancel(), "a job that waits can be cancelled"
    closing = threading.Thread(target=batcher.close)
    closing.start()
    gate.gate.set()
    closing.join(HANG_S)
    assert not closing.is_alive()
    assert first.result().text == "first"
    assert [other.result().text for number, other in enumerate(others) if number != 1] == ["0", "2", "3", "4"]
    assert gate.batches == [["first"], ["0"], ["2", "3"], ["4"]]
    assert sizes == [1, 1, 2, 1]
