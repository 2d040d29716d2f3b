"""Results of the report as metrics of the runs, and what a run says of itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import unquote

from coat_core.registry.overview import TRIALS, comparison
from coat_core.registry.parents import NOTE, PARENT
from coat_core.registry.run_metrics import log_results, trial_metrics
from coat_core.registry.tracking import MlflowTracker, open_tracker
from coat_core.storage import write_json
from tests.testing.mlflow_tables import load_table


def _seeds(*means: float) -> dict[str, Any]:
    return {"seeds": {str(seed): {"mean": mean, "families": {"music": mean + 0.1}} for seed, mean in enumerate(means, start=1)}}


BACKBONE = {
    "arms": {"base": {"seeds": {"0": {"mean": 0.2, "families": {"music": 0.3}}}}, "sft": _seeds(0.4, 0.5), "coat": _seeds(0.45, 0.48)},
    "differences": {"coat-sft": {"mean": {"difference": 0.015, "low": -0.01, "high": 0.04}}},
    "latency": {"candidate": "coat-1", "ratios": {"first_token_s": {"median": 1.03}}},
}


def test_a_trial_has_its_accuracy_its_difference_and_that_of_its_arm() -> None:
    assert trial_metrics(BACKBONE, "coat", "1") == {
        "evaluation/mean_accuracy": 0.45,
        "evaluation/music/accuracy": 0.55,
        "evaluation/minus_sft/seed": 0.05,
        "evaluation/minus_sft/mean": 0.015,
        "evaluation/minus_sft/low": -0.01,
        "evaluation/minus_sft/high": 0.04,
        "latency/first_token_ratio": 1.03,
    }
    assert trial_metrics(BACKBONE, "coat", "2")["evaluation/minus_sft/seed"] == -0.02
    for arm, seed in (("sft", "2"), ("base", "0")):
        assert set(trial_metrics(BACKBONE, arm, seed)) == {"evaluation/mean_accuracy", "evaluation/music/accuracy"}


def test_results_are_logged_once_with_the_runs_that_mlflow_has(workspace: Path, client: Any) -> None:
    tracker = MlflowTracker(workspace, experiment="coat-x", stage_key="k", sampling_s=None)
    tracker.start("qwen2_audio-coat-1")
    write_json(workspace / "runs/qwen2_audio-coat-1/run.json", tracker.describe())
    run_id = tracker.run_id
    tracker.finish("finished")
    results = {"backbones": {"qwen2_audio": BACKBONE}}
    for _ in range(2):
        assert log_results(workspace, results) == [run_id]
    run = client.get_run(run_id)
    assert run.data.metrics == trial_metrics(BACKBONE, "coat", "1")
    assert len(client.get_metric_history(run_id, "evaluation/mean_accuracy")) == 1
    assert run.data.tags["mlflow.source.name"] == "coat"
    assert run.data.tags["mlflow.source.git.commit"]


def test_the_parent_lists_its_trials_and_links_to_their_comparison(workspace: Path, client: Any) -> None:
    runs = {}
    for trial in ("qwen2_audio-sft-1", "qwen2_audio-coat-1"):
        with open_tracker(workspace, experiment="coat-x", run_name=trial, stage_key=trial) as tracker:
            tracker.start()
            write_json(workspace / f"runs/{trial}/run.json", tracker.describe())
            runs[trial] = tracker.run_id
    for _ in range(2):
        log_results(workspace, {"backbones": {"qwen2_audio": BACKBONE}})
    sft, coat = runs.values()
    trial = client.get_run(coat)
    parent = client.get_run(trial.data.tags[PARENT])
    assert load_table(client, parent.info.run_id, TRIALS) == [
        {"trial": "qwen2_audio-sft-1", "backbone": "qwen2_audio", "arm": "sft", "seed": 1, "mean_accuracy": 0.4, "minus_sft": None},
        {"trial": "qwen2_audio-coat-1", "backbone": "qwen2_audio", "arm": "coat", "seed": 1, "mean_accuracy": 0.45, "minus_sft": 0.05},
    ]
    assert f"]({comparison(trial.info.experiment_id, [sft, coat])})" in parent.data.tags[NOTE]
    assert all(part in unquote(parent.data.tags[NOTE]) for part in (sft, coat, f'experiments=["{trial.info.experiment_id}"]'))
    client.delete_run(parent.info.run_id)
    assert log_results(workspace, {"backbones": {"qwen2_audio": BACKBONE}}) == [sft, coat]
