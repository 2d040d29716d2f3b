"""The questions of a benchmark as a model gets them: prompts and clips, without answers; and where its clips are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from coat_core.storage import read_json, write_json

QUESTIONS, CLIPS = "questions.json", "clips"
"""Names in the folder of a question set: the questions, and the clips that were in a Parquet file."""


@dataclass(frozen=True)
class Question:
    """One prompt about one clip.

    Attributes:
        id: id of the item.
        prompt: the user's text.
        audio: path of the clip: below the folder of the benchmark, or (`packed`) below that of the question set.
        sha256: of the clip's file.
        duration_s: according to its header.
        packed: whether the clip was in a Parquet file.
        problem: why no model is asked, e.g. an unreadable clip; empty if one is.
    """

    id: str
    prompt: str
    audio: str = ""
    sha256: str = ""
    duration_s: float = 0.0
    packed: bool = False
    problem: str = ""


@dataclass(frozen=True)
class QuestionSet:
    """The questions of one split, in the order of its files, and the longest response in tokens."""

    suite: str
    split: str
    max_new_tokens: int
    questions: tuple[Question, ...]

    def write(self, folder: Path) -> None:
        """Write the questions to their file in a folder."""
        write_json(folder / QUESTIONS, asdict(self))


def read_questions(folder: Path) -> QuestionSet:
    """Read a question set.

    Raises:
        CoatError: the file is missing, or is not JSON.
    """
    value: dict[str, Any] = read_json(folder / QUESTIONS)
    return QuestionSet(**{**value, "questions": tuple(Question(**row) for row in value["questions"])})


def clip_path(question: Question, questions: Path, data: Path) -> Path:
    """Return the file of a question's clip.

    Args:
        question: the question.
        questions: folder of the question set.
        data: folder of the benchmark.
    """
    return (questions if question.packed else data) / question.audio


def in_order(questions: Sequence[Question]) -> list[Question]:
    """Return the questions that a model is asked, by id: batches must not depend on the order of the files."""
    return sorted((question for question in questions if not question.problem), key=lambda question: question.id)
