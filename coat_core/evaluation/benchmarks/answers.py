"""A model's responses to the questions of a benchmark: greedy, in batches of similar length, resumable after every batch.

A clip that is longer than the model accepts is cut, as the published front ends do, and the response says so. A question that cannot be
asked (an unreadable clip, a prompt that is too long) gets no response: the reason is recorded, and scorers see a missing row.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from platform import python_version
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coat_core.backbones.base import SAMPLE_RATE_HZ, Backbone, Query
from coat_core.batching import length_sorted_batches
from coat_core.corpus.audio import decode
from coat_core.description import DESCRIPTION_TOKENS, split_description
from coat_core.device import explain_out_of_memory
from coat_core.errors import AudioError, BackboneError, EvaluationError, OutOfMemoryError
from coat_core.evaluation.benchmarks.places import local_folder
from coat_core.evaluation.benchmarks.questions import Question, QuestionSet, clip_path, in_order, read_questions
from coat_core.evaluation.generate import ExplainMemory, generate_answers
from coat_core.progress import ProgressBar
from coat_core.settings import ARMS
from coat_core.storage import new_folder, sha256_file, write_json, write_jsonl

RESPONSES, RECORD = "responses.jsonl", "record.json"
"""Names in the folder of responses: a row for each item, and how they were made."""
_PACKAGES = ("coat", "torch", "transformers", "peft", "soxr")


@dataclass(frozen=True)
class Answerer:
    """A model and how it answers.

    Attributes:
        backbone: the loaded LALM.
        described: whether it writes a description before its answer (arm `described`).
        batch_size: most questions in a batch.
        explain_memory: returns the error of a batch that runs out of memory; None: the error recommends no value.
    """

    backbone: Backbone
    described: bool = False
    batch_size: int = 32
    explain_memory: ExplainMemory | None = None

    @property
    def longest_clip(self) -> int:
        """Samples of the longest clip that the model accepts."""
        return self.backbone.longest_clip

    def answer(self, queries: Sequence[Query], max_new_tokens: int) -> list[dict[str, Any]]:
        """Return a row for each query: `response` and `finished`, of arm `described` also `description`; or `skipped` with the reason."""
        limit = max_new_tokens + (DESCRIPTION_TOKENS if self.described else 0)
        reasons = [self._problem(query) for query in queries]
        asked = [query for query, reason in zip(queries, reasons, strict=True) if not reason]
        explain = self.explain_memory or _out_of_memory
        with explain_out_of_memory(self.backbone.embedding.weight.device, partial(explain, self.backbone, asked, limit)):
            answers = iter(generate_answers(self.backbone, asked, limit) if asked else [])
        return [{"skipped": reason} if reason else self._row(next(answers)) for reason in reasons]

    def record(self) -> dict[str, Any]:
        """Return the facts about the model and its computation that responses depend on."""
        model: Any = self.backbone.model
        weight = self.backbone.embedding.weight
        return {
            "decoding": {"method": "greedy", "batch_size": self.batch_size},
            "backbone": self.backbone.key,
            "dtype": str(weight.dtype).removeprefix("torch."),
            "device": weight.device.type,
            "attention": model.config._attn_implementation,
            "longest_clip_s": self.longest_clip / SAMPLE_RATE_HZ,
            "versions": {"python": python_version(), **{name: version(name) for name in _PACKAGES}},
        }

    def _problem(self, query: Query) -> str:
        try:
            self.backbone.encode([query], generation=True)
        except BackboneError as error:
            return str(error)
        return ""

    def _row(self, answer: Any) -> dict[str, Any]:
        if not self.described:
            return {"response": answer.text, "finished": answer.finished}
        description, text = split_description(answer.text)
        return {"response": text, "finished": answer.finished, "description": description}


def answer_suite(
    release: Path,
    questions: Path,
    data: str,
    target: Path,
    state: Path,
    *,
    batch_size: int,
    device: str = "cpu",
    dtype: str | None = None,
    attention: str = "sdpa",
    base: str | None = None,
    explain_memory: ExplainMemory | None = None,
) -> list[dict[str, Any]]:
    """Answer a question set with a release; see `answer_questions`.

    Args:
        release: folder of the release.
        questions: folder of the question set.
        data: folder of the benchmark, or its data set on the hub.
        target: folder of the responses.
        state: file of the responses so far.
        batch_size: most questions in a batch.
        device: `cpu` or `cuda`.
        dtype: dtype of the base's weights; None: the dtype that the release was trained with.
        attention: attention implementation of the model.
        base: folder or hub id of the base; None: as in the release.
        explain_memory: as in `Answerer`.

    Raises:
        ReleaseError: the release cannot be loaded; `load_release` lists further errors.
    """
    from coat_core.thinking.release import load_release

    asked = read_questions(questions)
    loaded = load_release(release, merge=True, device=device, dtype=dtype, attention=attention, base=base)
    info = loaded.info
    model = Answerer(loaded.backbone, ARMS[info.arm].described, batch_size, explain_memory)
    facts = {"arm": info.arm, "seed": info.seed, "fingerprint": info.fingerprint, "base": asdict(info.base)}
    return answer_questions(asked, questions, local_folder(data), model, target, state, facts)


def answer_questions(
    asked: QuestionSet,
    questions: Path,
    data: Path,
    model: Answerer,
    target: Path,
    state: Path,
    facts: Mapping[str, Any],
    *,
    progress: bool = True,
) -> list[dict[str, Any]]:
    """Answer a question set and write its responses and their record to a new folder.

    Batches are cut from all questions by length and id, and those of an earlier, stopped call are reused whole: neither the order of the
    questions nor an interruption changes a response.

    Args:
        asked: the questions.
        questions: folder of the question set.
        data: folder of the benchmark.
        model: the model.
        target: folder to write; an existing one is replaced.
        state: file of the responses so far. It must belong to the same questions, model and settings.
        facts: further facts for the record: the model and its base.
        progress: whether to show a progress bar.

    Raises:
        EvaluationError: a clip is not the one that the questions were prepared with.
        OutOfMemoryError: a batch does not fit the device's memory.
    """
    order = in_order(asked.questions)
    done = read_state(state)
    longest = model.longest_clip / SAMPLE_RATE_HZ
    seconds = [min(question.duration_s, longest) for question in order]
    read = partial(_waveform, questions=questions, data=data, longest=model.longest_clip)
    with ProgressBar(
        total=len(order), initial=sum(question.id in done for question in order), desc=f"answering {asked.suite}", unit="question",
        recorded=progress, disable=None if progress else True,
    ) as bar:  # fmt: skip
        for places in length_sorted_batches(seconds, model.batch_size):
            batch = [order[place] for place in places]
            if all(question.id in done for question in batch):
                continue
            rows = _answer(batch, model, asked.max_new_tokens, read)
            _append(state, rows)
            done |= {row["id"]: row for row in rows}
            bar.update(len(batch))
    skipped = {question.id: {"id": question.id, "skipped": question.problem} for question in asked.questions if question.problem}
    every = [{**done, **skipped}[question.id] for question in asked.questions]
    with new_folder(target) as folder:
        write_jsonl(folder / RESPONSES, every)
        limits = {"suite": asked.suite, "split": asked.split, "max_new_tokens": asked.max_new_tokens}
        write_json(folder / RECORD, {**limits, **model.record(), **facts})
    return every


def read_state(path: Path) -> dict[str, dict[str, Any]]:
    """Return the rows of a file of responses by id; a last line that was not written whole is left out."""
    rows: dict[str, dict[str, Any]] = {}
    for line in path.read_bytes().split(b"\n")[:-1] if path.is_file() else []:
        try:
            row = json.loads(line)
        except ValueError:
            break
        rows[row["id"]] = row
    return rows


def _append(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Add the rows of one batch. A line that an earlier call left unfinished is removed first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b") as stream:
        stream.seek(0)
        stream.truncate(stream.read().rfind(b"\n") + 1)
        stream.seek(0, os.SEEK_END)
        stream.write("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode())
        stream.flush()
        os.fsync(stream.fileno())


def _answer(
    batch: Sequence[Question], model: Answerer, max_new_tokens: int, read: Callable[[Question], tuple[NDArray[np.float32], bool]]
) -> list[dict[str, Any]]:
    rows: dict[str, dict[str, Any]] = {}
    queries = []
    for question in batch:
        try:
            waveform, cut = read(question)
        except AudioError as error:
            rows[question.id] = {"id": question.id, "skipped": _without_folder(str(error), question)}
            continue
        rows[question.id] = {"id": question.id, **({"cut_s": round(len(waveform) / SAMPLE_RATE_HZ, 3)} if cut else {})}
        queries.append(Query(question.sha256, waveform, question.prompt, name=question.id))
    for query, answer in zip(queries, model.answer(queries, max_new_tokens), strict=True):
        rows[query.name] |= answer
    return [rows[question.id] for question in batch]


def _waveform(question: Question, *, questions: Path, data: Path, longest: int) -> tuple[NDArray[np.float32], bool]:
    """Return a question's waveform `[N]` at 16 kHz, cut to the longest clip, and whether it was cut."""
    path = clip_path(question, questions, data)
    if not path.is_file() or sha256_file(path) != question.sha256:
        raise EvaluationError(
            f"the clip of {question.id} is missing or is another one than was prepared", field="data", value=str(path),
            allowed=f"SHA-256 {question.sha256[:12]}…", next_step="run `coat source`, then the pipeline again: coat run",
        )  # fmt: skip
    waveform = decode(path)
    return waveform[:longest], len(waveform) > longest


def _without_folder(message: str, question: Question) -> str:
    """Return a message about a clip with its published path: responses must not depend on where the clips are."""
    head, sign, tail = message.partition(": ")
    return f"{question.audio}: {tail}" if sign and head.endswith(Path(question.audio).name) else message


def _out_of_memory(backbone: Backbone, queries: Sequence[Query], max_new_tokens: int, budget: int) -> OutOfMemoryError:
    return OutOfMemoryError(
        "answering ran out of the device's memory", field="evaluation.batch_size", value=f"{len(queries)} clips at once",
        allowed=f"{budget / 1e9:.1f} GB on this device", next_step="lower evaluation.batch_size",
    )  # fmt: skip
