"""Replay: the run of a release that was trained without this MLflow, written from the stage's files and marked as replayed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from coat_core import logs
from coat_core.registry.database import experiment_id
from coat_core.registry.packaging import read_info
from coat_core.registry.tracking import MlflowTracker, find_run
from coat_core.storage import read_json, read_jsonl

_SECTIONS = ("lora", "losses", "heads")


def find_or_replay_run(client: Any, workspace: Path, release: Path, experiment: str, records: Path) -> str:
    """Return the id of the run that trained a release, closed as finished; replay it if it is not in MLflow.

    Args:
        client: `MlflowClient` of the records.
        workspace: the workspace.
        release: folder of the release.
        experiment: experiment for a replayed run.
        records: folder with `run.json` and `history.jsonl`; both are optional.
    """
    original = read_json(records / "run.json") if (records / "run.json").is_file() else {}
    run = find_run(client, original["run_id"]) if original.get("run_id") else None
    if run is None:
        return _replay(client, workspace, release, experiment, records, original)
    if run.info.status != "FINISHED":
        # The release is published, so the training was finished; a kill came before the run was closed.
        client.set_terminated(run.info.run_id, status="FINISHED")
    return str(run.info.run_id)


def _replay(client: Any, workspace: Path, release: Path, experiment: str, records: Path, original: Mapping[str, Any]) -> str:
    info = read_info(release)
    trial = f"{info['backbone']}-{info['arm']}-{info['seed']}"
    known = client.search_runs(
        [experiment_id(client, experiment, workspace)],
        f"tags.stage_key = '{info['fingerprint']}' and tags.replayed = 'true'",
        order_by=["attributes.start_time ASC"],
    )
    if known and known[0].info.status == "FINISHED":
        return str(known[0].info.run_id)
    tracker = MlflowTracker(workspace, experiment=experiment, stage_key=info["fingerprint"], sampling_s=None)
    tags = {"replayed": "true", "original_run_id": str(original.get("run_id", "unknown")), "backbone": info["backbone"], "arm": info["arm"]}
    tracker.start(trial, tags=tags, run_id=known[0].info.run_id if known else None)
    tracker.log_params(_params(info))
    history = records / "history.jsonl"
    for row in read_jsonl(history) if history.is_file() else []:
        numbers = {
            key: value for key, value in row.items() if key != "step" and isinstance(value, int | float) and not isinstance(value, bool)
        }
        tracker.log_metrics(int(row["step"]), numbers)
    run_id = tracker.run_id
    tracker.finish("finished")
    # The process that replays is not that of one run.
    logs.bind(mlflow_run=None)
    return run_id


def _params(info: Mapping[str, Any]) -> dict[str, str | int | float | bool | None]:
    """Return the parameters that the release itself contains."""
    flat: dict[str, str | int | float | bool | None] = {
        "backbone": info["backbone"],
        "arm": info["arm"],
        "seed": info["seed"],
        "base": info["base"]["id"],
        "revision": info["base"].get("revision"),
    }
    for section in _SECTIONS:
        for key, value in (info.get(section) or {}).items():
            flat[f"{section}.{key}"] = value if isinstance(value, str | int | float | bool | None) else str(value)
    block = info.get("block") or {}
    return flat | {f"thinking.{key}": block[key] for key in ("tokens", "placement", "read_layer") if key in block}
