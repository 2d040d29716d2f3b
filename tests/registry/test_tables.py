"""Tables of a run, as MLflow's own reader reads them: accuracy by family, skill by expert."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from coat_core.probing.verdict import FOLDER as PROBES
from coat_core.registry.releases import flat_metrics, register_trial
from coat_core.registry.run_metrics import log_results
from coat_core.registry.tables import ACCURACY, CONFUSION, CONFUSIONS, SKILL, accuracy_rows, skill_rows, write_table
from coat_core.registry.tracking import MlflowTracker
from coat_core.storage import read_json, write_json, write_text
from tests.registry.conftest import NAME
from tests.testing.mlflow_tables import load_table
from tests.testing.probes import invented_probe
from tests.testing.scores import FAMILIES


def trained(workspace: Path, trial: str) -> str:
    tracker = MlflowTracker(workspace, experiment=NAME, sampling_s=None)
    tracker.start(trial)
    write_json(workspace / "runs" / trial / "run.json", tracker.describe())
    run_id = tracker.run_id
    tracker.finish("finished")
    return run_id


def test_a_registered_run_has_one_table_for_all_families(workspace: Path, client: Any, add_trial: Callable[..., str]) -> None:
    trial = add_trial(right=(6, 3))
    metrics = read_json(workspace / "evaluation" / trial / "metrics.json")
    run_id = register_trial(workspace, NAME, trial).run_id
    rows = load_table(client, run_id, ACCURACY)
    assert rows == accuracy_rows(metrics)
    assert [row["family"] for row in rows] == [*metrics["families"], "mean"]
    music = next(row for row in rows if row["family"] == "music")
    assert music["low"] < music["accuracy"] < music["high"]
    assert {row["split"] for row in rows} == {metrics["split"]}
    logged = {name for name in client.get_run(run_id).data.metrics if name.startswith("evaluation/")}
    assert logged == set(flat_metrics(metrics)), "what the table has is no metric"
    assert logged == {"evaluation/mean_accuracy", "evaluation/unscored_share", "evaluation/n"} | {
        f"evaluation/{family}/{key}" for family in (*FAMILIES, "mean") for key in ("accuracy", "low", "high")
    }


def test_a_table_is_replaced_not_appended_to(workspace: Path, client: Any, add_trial: Callable[..., str]) -> None:
    trial = add_trial(right=(6, 3))
    run_id = register_trial(workspace, NAME, trial).run_id
    add_trial(right=(8, 5))
    assert register_trial(workspace, NAME, trial).run_id == run_id
    assert load_table(client, run_id, ACCURACY) == accuracy_rows(read_json(workspace / "evaluation" / trial / "metrics.json"))
    assert client.get_run(run_id).data.tags["mlflow.loggedArtifacts"].count(ACCURACY) == 1


def test_the_report_gives_every_trial_its_tables(workspace: Path, client: Any, add_trial: Callable[..., str]) -> None:
    trials = [add_trial("qwen2_audio-sft-0"), add_trial("qwen2_audio-coat-0")]
    runs = [trained(workspace, trial) for trial in trials]
    write_json(workspace / PROBES / f"{trials[1]}.json", invented_probe())
    arms = {arm: {"seeds": {"0": {"mean": 0.6, "families": {}}}} for arm in ("sft", "coat")}
    results = {"backbones": {"qwen2_audio": {"arms": arms, "differences": {}}}}
    for _ in range(2):
        assert log_results(workspace, results) == runs
    for trial, run_id in zip(trials, runs, strict=True):
        assert load_table(client, run_id, ACCURACY) == accuracy_rows(read_json(workspace / "evaluation" / trial / "metrics.json"))
    assert load_table(client, runs[1], SKILL) == skill_rows(invented_probe())
    assert [file.path for file in client.list_artifacts(runs[0], "tables")] == [ACCURACY]


def test_a_run_has_the_choices_that_were_confused(workspace: Path, client: Any, add_trial: Callable[..., str]) -> None:
    trial = add_trial("qwen2_audio-coat-0")
    write_text(
        workspace / "report" / CONFUSIONS,
        "backbone,arm,trial,task,right,answered,count\n"
        "qwen2_audio,sft,sft-0,emotion,sad,calm,4\n"
        "qwen2_audio,coat,coat-0,emotion,sad,sad,3\n"
        "qwen2_audio,coat,coat-0,emotion,sad,calm,1\n"
        "qwen2_audio,coat,coat-0,emotion,calm,calm,2\n",
    )
    run_id = register_trial(workspace, NAME, trial).run_id
    assert load_table(client, run_id, CONFUSION) == [
        {"task": "emotion", "right": "sad", "answered": "sad", "count": 3, "share": 0.75},
        {"task": "emotion", "right": "sad", "answered": "calm", "count": 1, "share": 0.25},
        {"task": "emotion", "right": "calm", "answered": "calm", "count": 2, "share": 1.0},
    ]


def test_a_new_report_gives_each_trial_its_own_counts_and_not_those_of_the_last_report(
    workspace: Path, client: Any, add_trial: Callable[..., str], tmp_path: Path
) -> None:
    trial = add_trial("qwen2_audio-sft-0")
    run_id = trained(workspace, trial)
    row = "backbone,arm,trial,task,right,answered,count\nqwen2_audio,sft,sft-0,emotion,sad,{},4\n"
    write_text(workspace / "report" / CONFUSIONS, row.format("calm"))
    write_text(tmp_path / "new" / CONFUSIONS, row.format("happy"))
    arms = {"sft": {"seeds": {"0": {"mean": 0.6, "families": {}}}}}
    log_results(workspace, {"backbones": {"qwen2_audio": {"arms": arms, "differences": {}}}}, tmp_path / "new")
    assert [row["answered"] for row in load_table(client, run_id, CONFUSION)] == ["happy"]


def test_the_skill_of_an_expert_without_a_head_is_missing() -> None:
    assert skill_rows(invented_probe()) == [
        {"expert": "events", "clips": 180, "head": None, "clip_mean": 0.4, "fresh_on_audio": 0.6},
        {"expert": "pitch", "clips": 170, "head": 0.2, "clip_mean": 0.4, "fresh_on_audio": 0.6},
    ]


@pytest.mark.parametrize("rows", [[], [{"a": 1, "b": None}, {"a": 2, "b": "x"}]])
def test_rows_are_read_back_as_written(workspace: Path, client: Any, rows: list[dict[str, Any]]) -> None:
    run_id = trained(workspace, "t")
    write_table(client, run_id, "tables/t.json", rows)
    assert load_table(client, run_id, "tables/t.json") == rows
