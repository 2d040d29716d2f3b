"""Scores and metrics in the format of the score stage."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from coat_core.evaluation.scores import ScoreRow, write_scores
from coat_core.storage import sha256_json, write_json

FAMILIES = ("music", "emotion")


def write_evaluation(target: Path, right: Sequence[int], of: int, questions: str = "q") -> None:
    """Write scores with `right[i]` right answers of `of` in family i, and their metrics."""
    from coat_core.evaluation.metrics import summarise
    from coat_core.evaluation.statistics import Bootstrap

    rows = [
        ScoreRow(
            id=f"{questions}-{family}-{i}",
            family=family,
            task="t",
            group=f"g{i}",
            score=float(i < count),
            unscored=None,
            kind="choice",
            audio="own",
            chance=0.25,
        )
        for family, count in zip(FAMILIES, right, strict=True)
        for i in range(of)
    ]
    write_scores(target / "scores.jsonl", rows)
    identity = {
        "backbone": "qwen2_audio",
        "arm": "coat",
        "seed": 0,
        "split": "test",
        "evaluation_set": sha256_json([row.id for row in rows]),
    }
    write_json(target / "metrics.json", {**identity, **summarise(rows, Bootstrap(200))})
