"""Tables of a run: MLflow shows the numbers of all families, or of all experts, in one place, and compares runs by them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from coat_core.evaluation.metrics import METRICS
from coat_core.storage import read_json

ACCURACY, SKILL = "tables/accuracy.json", "tables/skill.json"
_COLUMNS = ("n", "groups", "accuracy", "low", "high", "chance", "over_chance", "over_chance_low", "over_chance_high", "unscored_share")
_PREDICTORS = ("head", "clip_mean", "fresh_on_audio")


def log_tables(client: Any, run_id: str, evaluation: Path, probe: Path) -> None:
    """Write the tables of a trial as artifacts of its run; a table that is there is replaced.

    Args:
        client: `MlflowClient` of the records.
        run_id: the run.
        evaluation: folder with `metrics.json`.
        probe: result of the stage `probe`.
    """
    if (evaluation / METRICS).is_file():
        write_table(client, run_id, ACCURACY, accuracy_rows(read_json(evaluation / METRICS)))
    if probe.is_file():
        write_table(client, run_id, SKILL, skill_rows(read_json(probe)))


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
