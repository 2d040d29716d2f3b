"""Batches of the questions that wait: one thread computes, and the questions that arrive meanwhile form the next batch."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Protocol

from coat_core.backbones.base import Query
from coat_core.errors import CoatError


@dataclass(frozen=True)
class Reply:
    """The answer to a question.

    Attributes:
        text: the answer, without special tokens.
        finished: whether the model ended its turn; False: the answer was cut off.
        prompt_tokens: tokens of the prompt, audio and block included.
        decoded_tokens: generated tokens, end of turn included.
        first_token_s: time to the first token of the batch, encoding and prefill included.
        seconds: time to the last token of the batch.
    """

    text: str
    finished: bool
    prompt_tokens: int
    decoded_tokens: int
    first_token_s: float | None = field(default=None, compare=False)
    seconds: float = field(default=0.0, compare=False)


@dataclass(frozen=True)
class Job:
    """A question that waits.

    Attributes:
        query: the question and its audio.
        max_tokens: most tokens of the answer.
        on_text: called in the computing thread with each new piece of the answer; None: only the whole answer is wanted.
        reply: the future answer. If it is cancelled before its turn, the question is not computed.
    """

    query: Query
    max_tokens: int
    on_text: Callable[[str], None] | None = None
    reply: Future[Reply] = field(default_factory=Future)


class Answers(Protocol):
    """Computes answers; called by one thread at a time."""

    def __call__(self, jobs: Sequence[Job]) -> list[Reply]:
        """Return the reply to each job, in order.

        Raises:
            CoatError: a question cannot be answered.
        """


class Batcher:
    """Answers jobs in batches, in the order of arrival.

    Args:
        answers: computes the replies of a batch.
        batch: most jobs in a batch.
        on_batch: called with the size of each batch.
    """

    def __init__(self, answers: Answers, batch: int, on_batch: Callable[[int], None] = lambda size: None) -> None:
        self._answers, self._batch, self._on_batch = answers, batch, on_batch
        self._waiting: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="batcher", daemon=True)
        self._thread.start()

    def submit(self, job: Job) -> Future[Reply]:
        """Append a job, and return its future reply."""
        self._waiting.put(job)
        return job.reply

    def close(self) -> None:
        """Answer the jobs that were submitted, then end the thread."""
        self._waiting.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (job := self._waiting.get()) is not None:
            jobs, ended = [job], False
            while len(jobs) < self._batch and not ended:
                try:
                    following = self._waiting.get_nowait()
                except queue.Empty:
                    break
                if following is None:
                    ended = True
                else:
                    jobs.append(following)
            if running := [job for job in jobs if job.reply.set_running_or_notify_cancel()]:
                self._on_batch(len(running))
                self._answer(running)
            if ended:
                return

    def _answer(self, jobs: Sequence[Job]) -> None:
        try:
            replies = self._answers(jobs)
        except CoatError as error:
            if len(jobs) == 1:
                jobs[0].reply.set_exception(error)
                return
            # One question that the model refuses must not fail the others of its batch.
            for job in jobs:
                self._answer([job])
        except Exception as error:
            for job in jobs:
                job.reply.set_exception(error)
        else:
            for job, reply in zip(jobs, replies, strict=True):
                job.reply.set_result(reply)
