"""Scored responses (`scores.jsonl`), one row per response."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from coat_core.corpus.examples import Example
from coat_core.errors import EvaluationError
from coat_core.evaluation.responses import Audio, Response, Row, read_rows
from coat_core.evaluation.scorers import Kind, Unscored, kind_of, score
from coat_core.evaluation.statistics import Item
from coat_core.storage import write_jsonl


class ScoreRow(Row):
    """One scored response."""

    id: str
    family: str
    task: str
    group: str
    score: float | None
    """In [0, 1]; null if the response is unscored."""
    unscored: str | None
    """The reason why the response is unscored, else null."""
    kind: Kind
    audio: Audio
    chance: float | None
    """1 ÷ number of choices; null for open-ended examples, whose chance is the score of the row with `audio` "other"."""

    @property
    def value(self) -> float:
        """The score; 0 if unscored."""
        return 0.0 if self.score is None else self.score

    @property
    def item(self) -> Item:
        """The fields for resampling."""
        return Item(self.id, self.family, self.group)


def score_responses(examples: Sequence[Example], responses: Sequence[Response], *, numeric_tolerance: float = 0.0) -> list[ScoreRow]:
    """Score responses, in their order.

    Raises:
        EvaluationError: a response has no example, an example has no response, or it has two with the same audio; or two examples have
            the same id.
    """
    by_id = {example.id: example for example in examples}
    if len(by_id) != len(examples):
        raise EvaluationError(
            "two examples have the same id",
            field="id",
            value=next(name for name, count in Counter(example.id for example in examples).items() if count > 1),
            next_step="run the contract stage, which quarantines such rows",
        )
    own = [r.id for r in responses if r.audio == "own"]
    other = [r.id for r in responses if r.audio == "other"]
    if own != [example.id for example in examples] or len(set(other)) != len(other) or not set(other) <= set(own):
        raise EvaluationError(
            "responses and examples do not match",
            field="responses",
            value=f"{len(own)} responses, {len(examples)} examples",
            next_step="run the answer stage again on this manifest",
        )
    return [_score_row(by_id[r.id], r, numeric_tolerance) for r in responses]


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
        chance=None if not example.choices else round(1.0 / len(example.choices), 6),
    )


def write_scores(path: Path, rows: Iterable[ScoreRow]) -> None:
    """Write a file of scores atomically."""
    write_jsonl(path, (row.to_row() for row in rows))


def read_scores(path: Path) -> list[ScoreRow]:
    """Read a file of scores, including the rows with `audio` "other".

    Raises:
        EvaluationError: the file is missing, or a row is invalid.
    """
    return read_rows(ScoreRow, path, next_step="run the score stage again")
