"""Results of the report as metrics of the MLflow runs that trained the models, so that runs can be compared by what counts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from coat_core.registry.database import connect
from coat_core.registry.overview import log_overviews
from coat_core.registry.tables import log_tables
from coat_core.registry.tracking import EVALUATION, log_to_recorded_run
from coat_core.settings import CLAIM

BASELINE = CLAIM[1]
MINUS = f"minus_{BASELINE}"
MEAN, OWN = f"{EVALUATION}mean_accuracy", f"{EVALUATION}{MINUS}/seed"


def log_results(workspace: Path, results: Mapping[str, Any], report: Path | None = None) -> list[str]:
    """Log the accuracy of each trial, and its tables, with its run and with its parent; equal values are logged once.

    Args:
        workspace: folder of MLflow's records, `runs/` and `evaluation/`; a trial whose run MLflow does not have is left out.
        results: content of `results.json`.
        report: folder of the report with these results; that of the workspace if not given.

    Returns:
        The ids of the runs of the trials.
    """
    found: dict[str, dict[str, Any]] = {}
    for key, backbone in results["backbones"].items():
        for arm, values in backbone["arms"].items():
            for seed in values["seeds"]:
                name = f"{key}-{arm}-{seed}"
                metrics = trial_metrics(backbone, arm, seed)
                run_id = log_to_recorded_run(workspace, workspace / "runs" / name, metrics)
                if run_id:
                    log_tables(connect(workspace), run_id, workspace, name, report=report)
                    row = {"trial": name, "backbone": key, "arm": arm, "seed": int(seed)}
                    found[run_id] = row | {"mean_accuracy": metrics[MEAN], MINUS: metrics.get(OWN)}
    if found:
        log_overviews(connect(workspace), found)
    return list(found)


def trial_metrics(backbone: Mapping[str, Any], arm: str, seed: str) -> dict[str, float]:
    """Return the metrics of one trial.

    `evaluation/mean_accuracy` and `evaluation/<family>/accuracy` are of the trial, `evaluation/minus_sft/seed` is its difference from
    `sft` of the same seed. `evaluation/minus_sft/mean`, `low` and `high` are of the arm over all seeds, `latency/first_token_ratio` is of
    the timed trial.
    """
    own = backbone["arms"][arm]["seeds"][seed]
    metrics = {MEAN: own["mean"]} | {f"{EVALUATION}{name}/accuracy": value for name, value in own["families"].items()}
    baseline = backbone["arms"].get(BASELINE, {}).get("seeds", {}).get(seed)
    if baseline is not None and arm != BASELINE:
        metrics[OWN] = own["mean"] - baseline["mean"]
    if (difference := backbone["differences"].get(f"{arm}-{BASELINE}")) is not None:
        shown = {"mean": "difference", "low": "low", "high": "high"}
        metrics |= {f"{EVALUATION}{MINUS}/{name}": difference["mean"][value] for name, value in shown.items()}
    latency = backbone.get("latency")
    if latency and latency["candidate"] == f"{arm}-{seed}":
        metrics["latency/first_token_ratio"] = latency["ratios"]["first_token_s"]["median"]
    return {name: round(float(value), 6) for name, value in metrics.items()}
