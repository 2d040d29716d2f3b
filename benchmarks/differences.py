"""Paired differences between trials and a reference trial, and their table; pure functions of the files of finished trials."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from coat_core.errors import EvaluationError
from coat_core.evaluation.answer_losses import AnswerLoss, loss_per_token, paired_loss_difference
from coat_core.evaluation.arms import ArmScores, difference
from coat_core.evaluation.scores import read_scores
from coat_core.evaluation.statistics import Bootstrap, Floats, Item

SCORES, LOSSES = "scores.jsonl", "losses.jsonl"
Rows = Sequence[Mapping[str, Any]]
Folders = Callable[[str], Path]
"""Returns the folder of a finished trial by its key."""


def compare(rows: Rows, folder_of: Folders, reference: str, labels: Collection[str] | None = None) -> dict[str, dict[str, Any]]:
    """Return the differences from the reference: backbone → label → means, differences and their errors.

    Seeds that both trials have are averaged within each item; if there are none, all seeds of each. Errors are standard errors over
    items; the interval of the accuracy resamples groups and, with two seeds or more, seeds.

    Args:
        rows: rows of finished trials; those whose folder is missing are left out.
        folder_of: folder of a trial.
        reference: label of the reference.
        labels: labels to compare; None: all.
    """
    found: dict[str, dict[str, dict[int, Path]]] = {}
    for row in rows:
        if "key" in row and (folder_of(row["key"]) / SCORES).is_file():
            found.setdefault(row["backbone"], {}).setdefault(row["label"], {})[row["seed"]] = folder_of(row["key"])
    result: dict[str, dict[str, Any]] = {}
    for backbone, trials in found.items():
        if reference not in trials:
            continue
        base = trials[reference]
        for label, seeds in trials.items():
            if labels is not None and reference not in labels and label not in labels:
                continue
            entry = _compared(seeds, base, reference) if label != reference else _entry(seeds)
            result.setdefault(backbone, {})[label] = entry
    return result


def _entry(seeds: Mapping[int, Path]) -> dict[str, Any]:
    arm = ArmScores.of({seed: read_scores(folder / SCORES) for seed, folder in seeds.items()})
    losses = mean_losses([read_losses(folder) for folder in seeds.values()])
    loss = loss_per_token(losses) if losses else None
    return {
        "seeds": sorted(seeds),
        "answer_loss": None if loss is None else _rounded(loss.value, loss.error),
        "accuracy": round(macro(arm.items, arm.values)[0], 6),
        "unscored": round(macro(arm.items, arm.unscored)[0], 6),
    }


def _compared(seeds: Mapping[int, Path], base: Mapping[int, Path], reference: str) -> dict[str, Any]:
    shared = sorted({*seeds} & {*base})
    pair = [{seed: side[seed] for seed in shared or side} for side in (seeds, base)]
    first, second = (ArmScores.of({seed: read_scores(folder / SCORES) for seed, folder in side.items()}) for side in pair)
    entry = {**_entry(seeds), "reference": reference, "shared_seeds": shared}
    try:
        gap = difference(first, second, Bootstrap())["mean"]
        losses, base_losses = (mean_losses([read_losses(folder) for folder in side.values()]) for side in pair)
        loss = paired_loss_difference(losses, base_losses) if losses and base_losses else None
    except EvaluationError as error:
        return {**entry, "not_comparable": str(error)}
    value, error_over_items = macro(first.items, first.values - second.values)
    return {
        **entry,
        "answer_loss_difference": None if loss is None else _rounded(loss.value, loss.error),
        "accuracy_difference": {**_rounded(value, error_over_items), **{k: gap[k] for k in ("low", "high", "resampling")}},
    }


def mean_losses(seeds: Sequence[Sequence[AnswerLoss]]) -> list[AnswerLoss]:
    """Return the losses of each item averaged over seeds; empty if a seed has none."""
    if not all(seeds):
        return []
    return [AnswerLoss(rows[0].id, math.fsum(row.loss for row in rows) / len(rows), rows[0].tokens) for rows in zip(*seeds, strict=True)]


def macro(items: Sequence[Item], values: Floats) -> tuple[float, float]:
    """Return the mean over families of `values` `[n]`, and its standard error over items (each family's items are independent draws)."""
    families = [item.family for item in items]
    parts = [values[[f == family for f in families]] for family in dict.fromkeys(families)]
    variances = [np.var(part, ddof=1) / len(part) if len(part) > 1 else 0.0 for part in parts]
    return float(np.mean([part.mean() for part in parts])), math.sqrt(float(sum(variances))) / len(parts)


def read_losses(folder: Path) -> list[AnswerLoss]:
    """Return the answer losses of a finished trial; empty for a described arm."""
    from coat_core.storage import read_jsonl

    return [AnswerLoss(**row) for row in read_jsonl(folder / LOSSES)]


def merge(old: Mapping[str, Mapping[str, Any]], new: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return the differences of both, those of `new` in place of those of `old`."""
    return {backbone: {**old.get(backbone, {}), **new.get(backbone, {})} for backbone in [*old, *(key for key in new if key not in old)]}


def markdown(differences: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the table of all differences as Markdown; ± is one standard error over items."""
    lines = [
        "| model | trial | seeds | answer loss | Δ loss | accuracy | Δ accuracy [95 %] | unscored |",
        "|:--|:--|--:|--:|--:|--:|--:|--:|",
    ]
    for backbone, trials in differences.items():
        for label, entry in trials.items():
            cells = [backbone, label, str(len(entry["seeds"])), _number(entry["answer_loss"]), _gap(entry.get("answer_loss_difference"), 4)]
            cells += [f"{entry['accuracy']:.3f}", _gap(entry.get("accuracy_difference"), 3), f"{entry['unscored']:.3f}"]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _number(entry: Mapping[str, float] | None) -> str:
    return "n/a" if entry is None else f"{entry['value']:.4f}"


def _gap(entry: Mapping[str, float] | None, digits: int) -> str:
    if entry is None:
        return "n/a"
    interval = f" [{entry['low']:+.{digits}f}, {entry['high']:+.{digits}f}]" if "low" in entry else ""
    return f"{entry['value']:+.{digits}f} ± {entry['error']:.{digits}f}{interval}"


def _rounded(value: float, error: float) -> dict[str, float]:
    return {"value": round(value, 6), "error": round(error, 6)}
