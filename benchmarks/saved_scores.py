"""Scores of the trials behind a comparison across workspaces, in one file of docs/results/: seeds trained on several machines add up.

A trial of the label curves takes a quarter of an hour, and the workspaces are not committed. The first row of the file has the items; each
other row is a trial with its scores, in the order of the items. A score is a number, or the reason why the response is unscored.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from coat_core.errors import EvaluationError
from coat_core.evaluation.scores import ScoreRow
from coat_core.storage import read_jsonl, write_jsonl

_FIELDS = ("id", "family", "task", "group", "kind", "audio", "chance")


class SavedScores:
    """The file; it is read at once and written by `write`.

    Args:
        path: the file; it need not exist.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        rows = read_jsonl(path) if path.is_file() else []
        self._items: list[list[Any]] = rows[0]["items"] if rows else []
        self._trials: dict[tuple[str, str], list[float | str | None]] = {}
        for row in rows[1:]:
            self._trials[row["workspace"], row["trial"]] = row["scores"]

    def add(self, workspace: str, trial: str, rows: Sequence[ScoreRow]) -> None:
        """Add the scores of a trial, in place of earlier ones.

        Args:
            workspace: name of its workspace.
            trial: backbone, arm and seed, as the folder of its scores is named.
            rows: all its rows.

        Raises:
            EvaluationError: it was evaluated on other items than those in the file.
        """
        items = [[getattr(row, name) for name in _FIELDS] for row in rows]
        self._items = self._items or items
        if items != self._items:
            raise EvaluationError(
                "the trial was evaluated on other items than the saved ones", field="scores", value=f"{workspace}/{trial}",
                allowed=f"the {len(self._items)} items of {self._path.name}",
                next_step=f"remove {self._path} if the corpus or the scorers have changed, and run all trials again",
            )  # fmt: skip
        self._trials[workspace, trial] = [row.score if row.unscored is None else row.unscored for row in rows]

    def rows(self, workspace: str, trial: str) -> list[ScoreRow] | None:
        """Return the rows of a trial; None if it is not in the file."""
        scores = self._trials.get((workspace, trial))
        if scores is None:
            return None
        return [_row(item, score) for item, score in zip(self._items, scores, strict=True)]

    def trials(self, workspace: str) -> list[str]:
        """Return the trials of a workspace that are in the file."""
        return sorted(trial for name, trial in self._trials if name == workspace)

    def workspaces(self) -> list[str]:
        """Return the names of the workspaces that are in the file."""
        return sorted({name for name, _ in self._trials})

    def write(self) -> None:
        """Write the file atomically, unless nothing is in it."""
        if self._trials:
            trials = ({"workspace": name, "trial": trial, "scores": scores} for (name, trial), scores in sorted(self._trials.items()))
            write_jsonl(self._path, [{"items": self._items}, *trials])


def _row(item: Sequence[Any], score: float | str | None) -> ScoreRow:
    known = {"score": None, "unscored": score} if isinstance(score, str) else {"score": score, "unscored": None}
    return ScoreRow(**dict(zip(_FIELDS, item, strict=True)), **known)
