"""Metrics of one trial, computed from its saved responses without a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from coat_core.corpus.examples import Example
from coat_core.evaluation.arms import ArmScores
from coat_core.evaluation.responses import read_responses
from coat_core.evaluation.scores import ScoreRow, score_responses, write_scores
from coat_core.evaluation.selection import evaluation_set, select
from coat_core.evaluation.statistics import Bootstrap
from coat_core.settings import EvaluationSettings
from coat_core.storage import new_folder, write_json

SCORES, METRICS = "scores.jsonl", "metrics.json"


def score_trial(
    responses: Path, examples: Sequence[Example], settings: EvaluationSettings, target: Path, identity: Mapping[str, Any]
) -> dict[str, Any]:
    """Score the saved responses of a trial and write `scores.jsonl` and `metrics.json` to a new folder.

    Args:
        responses: the file of responses.
        examples: rows of the accepted manifest that the responses were made for.
        settings: the evaluation section; `max_new_tokens` and `batch_size` are not used.
        target: folder to write; an existing one is replaced.
        identity: `backbone`, `arm` and `seed`, copied into the metrics.

    Returns:
        The content of `metrics.json`.

    Raises:
        EvaluationError: the split is empty, or responses and examples do not match.
    """
    chosen = select(examples, settings)
    rows = score_responses(chosen, read_responses(responses), numeric_tolerance=settings.numeric_tolerance)
    metrics = {**identity, "split": settings.split, "evaluation_set": evaluation_set(chosen), **summarise(rows, bootstrap_of(settings))}
    with new_folder(target) as folder:
        write_scores(folder / SCORES, rows)
        write_json(folder / METRICS, metrics)
    return metrics


def summarise(rows: Sequence[ScoreRow], bootstrap: Bootstrap) -> dict[str, Any]:
    """Return n, accuracy by family with interval and chance, mean accuracy over families, and the unscored share."""
    table = ArmScores.of({0: rows}).table(bootstrap)
    own = [row for row in rows if row.audio == "own"]
    return {
        "n": len(own),
        **table,
        "mean_accuracy": table["mean"]["accuracy"],
        "unscored_share": round(sum(row.score is None for row in own) / len(own), 6),
    }


def bootstrap_of(settings: EvaluationSettings) -> Bootstrap:
    """Return the bootstrap that the settings describe."""
    return Bootstrap(settings.bootstrap_resamples, settings.confidence, settings.seed)
