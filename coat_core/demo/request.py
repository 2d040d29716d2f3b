"""The question of a visitor: a clip of the workspace or an audio file, a text, choices."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coat_core.ask import check_choices, check_question, example_of
from coat_core.backbones.base import Query
from coat_core.corpus.audio_text import data_uri_bytes, decode_bytes, is_data_uri, shown
from coat_core.corpus.examples import Example
from coat_core.errors import AudioError, EvaluationError
from coat_core.serving.chat import checked_tokens
from coat_core.serving.limits import Limits
from coat_core.storage import sha256_bytes

UPLOAD = "the audio file"
"""What messages call an audio file that was uploaded or recorded."""
FIELDS = ("clip", "audio", "question", "choices", "max_tokens")


@dataclass(frozen=True)
class Asked:
    """A question.

    Attributes:
        data: bytes of the audio file.
        waveform: mono `[N]` at 16 kHz.
        example: the question; its answer is empty unless it is the unchanged question of an example of the workspace.
        max_tokens: most tokens of an answer.
    """

    data: bytes
    waveform: NDArray[np.float32]
    example: Example
    max_tokens: int

    @property
    def query(self) -> Query:
        """The question as the models receive it."""
        return Query(self.example.sha256, self.waveform, self.example.prompt, name=self.example.id)


def read_question(body: Any, examples: Mapping[str, Example], corpus: Path, limits: Limits) -> Asked:
    """Return the question in a JSON body.

    Args:
        body: the parsed body: `clip` (id of an example) or `audio` (a data URI), `question`, and if wanted `choices` and `max_tokens`.
        examples: the examples of the workspace, by id.
        corpus: folder that their audio paths are relative to.
        limits: limits of the server.

    Raises:
        CoatError: a field is missing, unknown, wrong or beyond a limit; the message names it.
    """
    if not isinstance(body, dict) or (set(body) - set(FIELDS)):
        raise EvaluationError("the body is no JSON object with these fields", field="body", value=shown(repr(body)), allowed=FIELDS)
    question = body.get("question")
    if not isinstance(question, str):
        raise EvaluationError("there is no question", field="question", value=shown(repr(question)), allowed="text")
    check_question(question)
    choices = _choices(body.get("choices"))
    known = _example(body.get("clip"), examples)
    data = _upload(body.get("audio")) if known is None else _file(corpus / known.audio)
    waveform = decode_bytes(data, max_duration_s=limits.audio_s, name=UPLOAD if known is None else known.id)
    tokens = min(64, limits.tokens) if body.get("max_tokens") is None else checked_tokens(body["max_tokens"], "max_tokens", limits)
    if known is not None and known.labelled and (question, choices) == (known.question, known.choices):
        return Asked(data, waveform, known, tokens)
    example = example_of(known.id if known else UPLOAD, sha256_bytes(data), len(waveform), question.strip(), choices)
    return Asked(data, waveform, example, tokens)


def _example(clip: Any, examples: Mapping[str, Example]) -> Example | None:
    if clip is None:
        return None
    if not isinstance(clip, str) or clip not in examples:
        raise AudioError("no example has this id", field="clip", value=shown(str(clip)), allowed="an id of the list of items")
    return examples[clip]


def _upload(audio: Any) -> bytes:
    if not isinstance(audio, str) or not is_data_uri(audio):
        raise AudioError("there is no clip", field="audio", value=shown(repr(audio)), allowed="an example, an audio file, or a recording")
    return data_uri_bytes(audio)


def _file(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        message = f"the clip cannot be read: {error.strerror}"
        raise AudioError(message, field="clip", value=path.name, next_step="run coat run in this workspace") from error


def _choices(choices: Any) -> tuple[str, ...] | None:
    if choices is None or choices == []:
        return None
    if not isinstance(choices, list) or not all(isinstance(choice, str) for choice in choices):
        raise EvaluationError("the choices are no list of texts", field="choices", value=shown(repr(choices)), allowed="texts")
    return check_choices(choices)
