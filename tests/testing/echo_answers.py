"""An invented model for the tests of servers."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from coat_core.errors import BackboneError
from coat_core.serving.batcher import Job, Reply
from tests.testing.chain_runs import HANG_S


class Echo:
    """Answers with the question, a word at a time; refuses the question `refuse`, fails at `fail`, and waits for `gate` at `wait`."""

    def __init__(self) -> None:
        self.gate, self.entered = threading.Event(), threading.Event()
        self.batches: list[list[str]] = []

    def __call__(self, jobs: Sequence[Job]) -> list[Reply]:
        texts = [job.query.text for job in jobs]
        self.batches.append(texts)
        if "wait" in texts:
            self.entered.set()
            assert self.gate.wait(HANG_S)
        if "refuse" in texts:
            raise BackboneError("the audio is too long", field="audio")
        if "fail" in texts:
            raise RuntimeError("broken")
        return [self._reply(job) for job in jobs]

    def _reply(self, job: Job) -> Reply:
        words = job.query.text.split()
        kept = words[: job.max_tokens]
        for number, word in enumerate(kept):
            if job.on_text is not None:
                job.on_text(word if number == 0 else f" {word}")
        return Reply(" ".join(kept), len(kept) == len(words), 7, len(kept))
