"""Tables of a run: MLflow shows the numbers of all families, or of all experts, in one place, and compares runs by them."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from coat_core.evaluation.metrics import METRICS
from coat_core.probing.verdict import FOLDER as PROBES
from coat_core.storage import read_json

ACCURACY, SKILL, CONFUSION = "tables/accuracy.json", "tables/skill.json", "tables/confusion.json"
CONFUSIONS = Path("plots/confusion.csv")
"""The counts of all trials, in the folder of a report."""
_COLUMNS = ("n", "groups", "accuracy", "low", "high", "chance", "over_chance", "over_chance_low", "over_chance_high", "unscored_share")
_PREDICTORS = ("head", "clip_mean", "fresh_on_audio")


def log_tables(client: Any, run_id: str, workspace: Path, name: str, *, evaluation: Path | None = None, report: Path | None = None) -> None:
    """Write the tables of a trial as artifacts of its run; a table that is there is replaced.

    Args:
        client: `MlflowClient` of the records.
        run_id: the run.
        workspace: folder with the results of the stages `probe` and `report`, where they ran.
        name: `<backbone>-<arm>-<seed>`.
        evaluation: folder with `metrics.json`; that of the trial in the workspace if not given.
        report: folder of the report; that of the workspace if not given. The stage `report` has not put its new one there yet.
    """
    counts = (report or workspace / "report") / CONFUSIONS
    metrics, probe = (evaluation or workspace / "evaluation" / name) / METRICS, workspace / PROBES / f"{name}.json"
    if metrics.is_file():
        write_table(client, run_id, ACCURACY, accuracy_rows(read_json(metrics)))
    if probe.is_file():
        write_table(client, run_id, SKILL, skill_rows(read_json(probe)))
    if counts.is_file() and (rows := confusion_rows(counts, name)):
        write_table(client, run_id, CONFUSION, rows)


def accuracy_rows(metrics: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return one row for each family and one, `mean`, over all: accuracy with its interval, chance, and share of unscored answers.

    Args:
        metrics: content of `metrics.json`.
    """
    slices = {**metrics.get("families", {}), **({"mean": metrics["mean"]} if isinstance(metrics.get("mean"), Mapping) else {})}
    split = metrics.get("split")
    return [{"family": family, "split": split, **{name: entry.get(name) for name in _COLUMNS}} for family, entry in slices.items()]


def skill_rows(probe: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return one row for each expert: validation clips, and the skill of the head, of the clip's mean and of a fresh head on the audio.

    Args:
        probe: result of the stage `probe`.
    """
    return [
        {"expert": expert, "clips": entry["clips"], **{name: entry["skills"][name] for name in _PREDICTORS}}
        for expert, entry in probe["skill"].items()
    ]


def confusion_rows(counts: Path, name: str) -> list[dict[str, Any]]:
    """Return one row for each task, right choice and answered choice that occurs: number of questions, and their share of the right one.

    Args:
        counts: `CONFUSIONS` of a report.
        name: `<backbone>-<arm>-<seed>`.
    """
    with counts.open(newline="", encoding="utf-8") as file:
        found = [row for row in csv.DictReader(file) if f"{row['backbone']}-{row['trial']}" == name]
    totals: Counter[tuple[str, str]] = Counter()
    for row in found:
        totals[row["task"], row["right"]] += int(row["count"])
    return [
        {
            **{column: row[column] for column in ("task", "right", "answered")},
            "count": int(row["count"]),
            "share": round(int(row["count"]) / totals[row["task"], row["right"]], 6),
        }
        for row in found
    ]


def write_table(client: Any, run_id: str, path: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write a table as an artifact of a run.

    `MlflowClient.log_table` appends to a table that is there, so that an evaluation which is repeated would be in it twice. This writes the
    same file and the same tag, which MLflow's `load_table` and its page read.

    Args:
        client: `MlflowClient` of the records.
        run_id: the run.
        path: artifact path, ending in `.json`.
        rows: all with the same columns.
    """
    from mlflow.utils.mlflow_tags import MLFLOW_LOGGED_ARTIFACTS

    columns = list(rows[0]) if rows else []
    content = {"columns": columns, "data": [[row[column] for column in columns] for row in rows]}
    client.log_text(run_id, json.dumps(content), path)
    known = json.loads(client.get_run(run_id).data.tags.get(MLFLOW_LOGGED_ARTIFACTS, "[]"))
    entry = {"path": path, "type": "table"}
    if entry not in known:
        client.set_tag(run_id, MLFLOW_LOGGED_ARTIFACTS, json.dumps([*known, entry]))
