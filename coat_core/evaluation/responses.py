"""Responses of a model (`responses/<backbone>-<trial>.jsonl`): the output of the answer stage and the input of the score stage."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from coat_core.errors import EvaluationError
from coat_core.storage import read_jsonl, write_jsonl

Audio = Literal["own", "other"]


class Row(BaseModel):
    """A row of a JSON Lines file: frozen, strict, no unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    def to_row(self) -> dict[str, Any]:
        """Return the row as JSON, keys in the order of the fields."""
        return self.model_dump(mode="json")


T = TypeVar("T", bound=Row)


class Response(Row):
    """One response; `audio` is "other" if the clip of another example was played, to measure the score of guessing."""

    id: str
    response: str
    """The answer; of a release of arm `described`, without its description, and empty if the description did not end."""
    audio: Audio = "own"
    description: str | None = None
    """What a release of arm `described` wrote before its answer; other arms have none."""
    decoded_tokens: int | None = None
    """Tokens decoded for description and answer, end of turn included; null for other arms."""

    def to_row(self) -> dict[str, Any]:
        """Return the row as JSON, without the fields of a described response that are null."""
        row = super().to_row()
        return {name: value for name, value in row.items() if value is not None or name not in ("description", "decoded_tokens")}


def write_responses(path: Path, responses: Iterable[Response]) -> None:
    """Write a file of responses atomically."""
    write_jsonl(path, (response.to_row() for response in responses))


def read_responses(path: Path) -> list[Response]:
    """Read a file of responses.

    Raises:
        EvaluationError: the file is missing, or a row is invalid.
    """
    return read_rows(Response, path, next_step="run the answer stage again")


def read_rows(kind: type[T], path: Path, *, next_step: str) -> list[T]:
    """Read rows of one kind.

    Raises:
        EvaluationError: the file is missing, or a row is invalid; the message names the row.
    """
    if not path.is_file():
        raise EvaluationError("a file is missing", field="path", value=str(path), next_step=next_step)
    return [_parse(kind, row, path, next_step) for row in read_jsonl(path)]


def _parse(kind: type[T], row: dict[str, Any], path: Path, next_step: str) -> T:
    try:
        return kind.model_validate(row)
    except ValidationError as error:
        mistakes = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise EvaluationError(f"row {row.get('id', '?')}: {mistakes}", field="path", value=str(path), next_step=next_step) from error
