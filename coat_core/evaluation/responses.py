"""What models answered (`responses.jsonl`), and how it was scored (`scores.jsonl`)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from coat_core.corpus.examples import Example
from coat_core.errors import EvaluationError
from coat_core.evaluation.scorers import Kind, Unscored, kind_of, score
from coat_core.evaluation.statistics import Item
from coat_core.storage import read_jsonl, write_jsonl

Audio = Literal["own", "other"]


class _Row(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    def to_row(self) -> dict[str, Any]:
        """Return the row's plain JSON, keys in the order of the fields."""
        return self.model_dump(mode="json")


T = TypeVar("T", bound=_Row)


class Response(_Row):
    """One answer; `audio` is "other" where another clip was played, which tells what guessing earns on open answers."""

    id: str
    response: str
    audio: Audio = "own"


class ScoreRow(_Row):
    """One scored answer."""

    id: str
    family: str
    task: str
    group: str
    score: float | None
    """In [0, 1]; null where the response could not be read (it counts as 0)."""
    unscored: str | None
    """Why it could not be read."""
    kind: Kind
    audio: Audio
    chance: float | None
    """1 ÷ number of choices; null for open answers, whose chance is the score of the row with the other clip's audio."""

    @property
    def earned(self) -> float:
        """The score, with unscored counted as wrong."""
        return 0.0 if self.score is None else self.score

    @property
    def item(self) -> Item:
        """What resampling needs to know."""
        return Item(self.id, self.family, self.group)


def score_responses(examples: Sequence[Example], responses: Sequence[Response], *, numeric_tolerance: float = 0.0) -> list[ScoreRow]:
    """Score responses, in their order.

    Raises:
        EvaluationError: a response belongs to no example, an example has none, or one has two with the same audio.
    """
    known = {example.id: example for example in examples}
    own = [r.id for r in responses if r.audio == "own"]
    other = [r.id for r in responses if r.audio == "other"]
    if own != [example.id for example in examples] or len(set(other)) != len(other) or not set(other) <= set(own):
        raise EvaluationError(
            "responses and examples do not belong together",
            field="responses",
            value=f"{len(own)} responses, {len(examples)} examples",
            next_step="evaluate the release again on this manifest",
        )
    return [_score_row(known[r.id], r, numeric_tolerance) for r in responses]


def _score_row(example: Example, response: Response, tolerance: float) -> ScoreRow:
    result = score(example, response.response, numeric_tolerance=tolerance)
    return ScoreRow(
        id=example.id,
        family=example.family,
        task=example.task,
        group=example.group,
        score=None if isinstance(result, Unscored) else round(result.value, 6),
        unscored=result.reason if isinstance(result, Unscored) else None,
        kind=kind_of(example),
        audio=response.audio,
        chance=None if example.choices is None else round(1.0 / len(example.choices), 6),
    )


def write_responses(path: Path, responses: Iterable[Response]) -> None:
    """Write responses whole."""
    write_jsonl(path, (response.to_row() for response in responses))


def read_responses(path: Path) -> list[Response]:
    """Read responses.

    Raises:
        EvaluationError: a row does not hold.
    """
    return [_parse(Response, row, path) for row in read_jsonl(path)]


def write_scores(path: Path, rows: Iterable[ScoreRow]) -> None:
    """Write scores whole."""
    write_jsonl(path, (row.to_row() for row in rows))


def read_scores(path: Path) -> list[ScoreRow]:
    """Read scores; both kinds of audio, own first.

    Raises:
        EvaluationError: a row does not hold.
    """
    return [_parse(ScoreRow, row, path) for row in read_jsonl(path)]


def _parse(kind: type[T], row: dict[str, Any], path: Path) -> T:
    try:
        return kind.model_validate(row)
    except ValidationError as error:
        mistakes = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise EvaluationError(
            f"row {row.get('id', '?')}: {mistakes}", field="path", value=str(path), next_step="evaluate the release again"
        ) from error
