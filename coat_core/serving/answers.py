"""Answers of a loaded release to a batch of jobs, with their text as it is generated."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from coat_core.backbones.base import Backbone
from coat_core.description import DESCRIPTION_TOKENS, split_description
from coat_core.evaluation.generate import answer_text, generate_answers, stop_ids
from coat_core.serving.batcher import Job, Reply
from coat_core.settings import ARMS


class ReleaseAnswers:
    """Greedy answers of a loaded model.

    A batch runs to the largest limit of its jobs; each answer is cut at its own. The other questions of a batch can change the last bit of
    a logit, as everywhere with padding.

    Args:
        backbone: the LALM of a release or an export.
        arm: its arm.
        lock: held while the model computes.
    """

    def __init__(self, backbone: Backbone, arm: str, lock: threading.Lock) -> None:
        self._backbone = backbone
        self._described = ARMS[arm].described
        self._lock = lock

    def __call__(self, jobs: Sequence[Job]) -> list[Reply]:
        """Return the reply to each job, in order."""
        limit = max(job.max_tokens for job in jobs) + (DESCRIPTION_TOKENS if self._described else 0)
        # The text of a described answer is known only when the description has ended.
        streamer = TextStreamer(self._backbone, [replace(job, on_text=None) for job in jobs] if self._described else jobs)
        with self._lock:
            begin = time.perf_counter()
            answers = generate_answers(self._backbone, [job.query for job in jobs], limit, streamer=streamer)
            seconds = time.perf_counter() - begin
        first_token_s = None if streamer.first_token is None else streamer.first_token - begin
        replies = []
        for job, answer in zip(jobs, answers, strict=True):
            cut = not self._described and answer.decoded_tokens > job.max_tokens
            text = split_description(answer.text)[1] if self._described else answer.text
            if cut:
                text = answer_text(self._backbone, answer.ids[: job.max_tokens])
            decoded = job.max_tokens if cut else answer.decoded_tokens
            replies.append(Reply(text, answer.finished and not cut, answer.prompt_tokens, decoded, first_token_s, seconds))
        return replies


class TextStreamer:
    """Turns the ids of each step into pieces of text (the interface of the streamers of transformers, for a batch).

    Args:
        backbone: the LALM, whose tokenizer and end tokens are used.
        jobs: the jobs of the batch, in row order.
    """

    def __init__(self, backbone: Backbone, jobs: Sequence[Job]) -> None:
        self._backbone, self._jobs, self._stops = backbone, jobs, stop_ids(backbone)
        self._ids: list[list[int]] = [[] for _ in jobs]
        self._sent = ["" for _ in jobs]
        self._ended = [job.on_text is None for job in jobs]
        self._begun = False
        self.first_token: float | None = None
        """When the first token was known, on the clock of `time.perf_counter`."""

    def put(self, value: Any) -> None:
        """Take the ids `[B]` of a step. The first call has the prompts, which are not part of an answer."""
        if not self._begun:
            self._begun = True
            return
        self.first_token = self.first_token or time.perf_counter()
        for row, token in enumerate(value.flatten().tolist()):
            if self._ended[row]:
                continue
            self._ended[row] = token in self._stops or len(self._ids[row]) + 1 >= self._jobs[row].max_tokens
            if token not in self._stops:
                self._ids[row].append(token)
            self._send(row)

    def end(self) -> None:
        """Nothing is left to send: a row's last token ends it."""

    def _send(self, row: int) -> None:
        text, sent = answer_text(self._backbone, self._ids[row]), self._sent[row]
        # A character of several tokens is U+FFFD until its last token.
        if text != sent and text.startswith(sent) and (self._ended[row] or not text.endswith("\ufffd")):
            self._sent[row] = text
            on_text: Callable[[str], None] | None = self._jobs[row].on_text
            if on_text is not None:
                on_text(text[len(sent) :])
