"""One release over one split: responses first, then scores, then metrics."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from coat_core.corpus.examples import Example
from coat_core.errors import EvaluationError
from coat_core.evaluation.arms import ArmScores
from coat_core.evaluation.responses import ScoreRow, read_responses, score_responses, write_responses, write_scores
from coat_core.evaluation.statistics import Bootstrap
from coat_core.settings import EvaluationSettings
from coat_core.storage import sha256_json, write_json

RESPONSES, SCORES, METRICS = "responses.jsonl", "scores.jsonl", "metrics.json"


def evaluate_release(
    release: Path,
    examples: Sequence[Example],
    corpus: Path,
    settings: EvaluationSettings,
    target: Path,
    *,
    device: str = "cpu",
    dtype: str | None = None,
    attention: str = "sdpa",
) -> dict[str, Any]:
    """Ask a release the examples of `settings.split` and score what it says.

    `target` gets `responses.jsonl`, `scores.jsonl` and, last, `metrics.json`; each is whole or absent, and the same bytes come
    from the same inputs. A fault in scoring leaves the responses, so that `rescore` can go on without the model.

    Args:
        release: folder of the release.
        examples: rows of the accepted manifest; other splits are passed over.
        corpus: folder that the rows' audio paths are relative to.
        settings: the evaluation section.
        target: folder to write; an older one is removed.
        device: `cpu` or `cuda`.
        dtype: of the base's weights; None: what the release was trained on.
        attention: which attention the model computes with.

    Returns:
        What `metrics.json` holds.

    Raises:
        EvaluationError: the split is empty.
        ReleaseError: the release cannot be loaded; see `load_release` for what else stops it.
        OutOfMemoryError: the device is too small for the answers of one batch.
    """
    from coat_core.evaluation.generate import generate_responses, select
    from coat_core.thinking.release import load_release

    chosen = _nonempty(select(examples, settings), settings)
    loaded = load_release(release, merge=True, device=device, dtype=dtype, attention=attention)
    if target.exists():
        shutil.rmtree(target)
    write_responses(target / RESPONSES, generate_responses(loaded.backbone, chosen, corpus, settings))
    return rescore(target, examples, settings, {"backbone": loaded.info.backbone, "arm": loaded.info.arm, "seed": loaded.info.seed})


def rescore(target: Path, examples: Sequence[Example], settings: EvaluationSettings, identity: Mapping[str, Any]) -> dict[str, Any]:
    """Score the saved responses of a folder and write `scores.jsonl` and `metrics.json`.

    Args:
        target: folder with `responses.jsonl`.
        examples: rows of the accepted manifest that the responses were made for.
        settings: the evaluation section.
        identity: `backbone`, `arm` and `seed`, for the metrics.

    Raises:
        EvaluationError: the split is empty, or responses and examples do not belong together.
    """
    from coat_core.evaluation.generate import select

    chosen = _nonempty(select(examples, settings), settings)
    rows = score_responses(chosen, read_responses(target / RESPONSES), numeric_tolerance=settings.numeric_tolerance)
    write_scores(target / SCORES, rows)
    metrics = {**identity, "split": settings.split, "evaluation_set": evaluation_set(chosen), **summarise(rows, bootstrap_of(settings))}
    write_json(target / METRICS, metrics)
    return metrics


def summarise(rows: Sequence[ScoreRow], bootstrap: Bootstrap) -> dict[str, Any]:
    """Return n, accuracy by family with interval and chance, mean accuracy over families, and the share that went unscored."""
    table = ArmScores.of({0: rows}).table(bootstrap)
    own = [row for row in rows if row.audio == "own"]
    return {
        "n": len(own),
        **table,
        "mean_accuracy": table["mean"]["accuracy"],
        "unscored_share": round(sum(row.score is None for row in own) / len(own), 6),
    }


def evaluation_set(examples: Sequence[Example]) -> str:
    """Return the SHA-256 that names an evaluation set: its example ids with their answers, in order."""
    return sha256_json([[example.id, example.answer] for example in examples])


def bootstrap_of(settings: EvaluationSettings) -> Bootstrap:
    """Return how intervals are drawn under these settings."""
    return Bootstrap(settings.bootstrap_resamples, settings.confidence, settings.seed)


def _nonempty(examples: list[Example], settings: EvaluationSettings) -> list[Example]:
    if not examples:
        raise EvaluationError(
            "there is nothing to evaluate",
            field="evaluation.split",
            value=settings.split,
            next_step="choose a split that the accepted manifest holds",
        )
    return examples
