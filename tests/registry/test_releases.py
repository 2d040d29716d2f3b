from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from coat_core.errors import RegistryError, ReleaseError
from coat_core.registry import releases
from coat_core.registry.database import default_database
from coat_core.registry.lineage import lineage, lineage_text
from coat_core.registry.releases import find_version, register_trial
from coat_core.registry.tracking import MlflowTracker
from coat_core.storage import read_json, sha256_file, write_json, write_text

NAME = "coat-qwen2-audio"


def artifacts(client: Any, run_id: str, folder: str | None = None) -> set[str]:
    found: set[str] = set()
    for file in client.list_artifacts(run_id, folder):
        found |= artifacts(client, run_id, file.path) if file.is_dir else {file.path}
    return found


def steps(client: Any, run_id: str) -> list[int]:
    return [metric.step for metric in client.get_metric_history(run_id, "loss")]


def test_a_version_has_its_lineage_its_scores_and_its_card(workspace: Path, client: Any, add_trial: Callable[..., str]) -> None:
    trial = add_trial()
    add_trial("qwen2_audio-sft-0", right=(4, 5))
    made = register_trial(workspace, NAME, trial)
    assert (made.created, made.version, made.uri) == (True, "1", f"models:/{NAME}/1")

    version = client.get_model_version(NAME, "1")
    release = workspace / "models" / trial
    metrics = read_json(workspace / "evaluation" / trial / "metrics.json")
    expected = {
        "stage_key": read_json(release / "coat.json")["fingerprint"],
        "backbone": "qwen2_audio",
        "arm": "coat",
        "seed": "0",
        "base_id": "bases/qwen2_audio",
        "base_revision": "none",
        "base_licence": "Apache-2.0",
        "contract": "passed",
        "adapter_sha256": sha256_file(release / "adapter_model.safetensors"),
        "data_sha256": sha256_file(workspace / "data/accepted.jsonl"),
        "evaluation_set": metrics["evaluation_set"],
        "unsafe_files": "none",
        "mean_accuracy": "0.600000",
    }
    assert expected.items() <= version.tags.items()
    assert {"git_commit", "git_dirty", "features_sha256.pitch", "scores_sha256"} <= set(version.tags)
    assert version.tags["accuracy.music"].startswith("0.600 [")
    assert "## Evaluation" in version.description
    assert "0.400 [" in version.description, "the score of the control"
    short = metrics["evaluation_set"][:16]
    assert artifacts(client, made.run_id) >= {
        "lineage/dvc.lock",
        "lineage/params.yaml",
        f"evaluation/{short}/metrics.json",
        f"evaluation/{short}/scores.jsonl",
    }
    run = client.get_run(made.run_id)
    assert run.data.metrics["evaluation/mean_accuracy"] == pytest.approx(0.6)
    assert run.data.metrics["evaluation/music/low"] < 0.6 < run.data.metrics["evaluation/music/high"]
    model = client.get_logged_model(version.source.removeprefix("models:/"))
    assert {metric.key for metric in model.metrics} >= {"evaluation/mean_accuracy", "evaluation/music/accuracy"}


def test_registering_again_changes_nothing(workspace: Path, client: Any, add_trial: Callable[..., str]) -> None:
    trial = add_trial()
    first = register_trial(workspace, NAME, trial)
    before = client.get_model_version(NAME, "1")
    again = register_trial(workspace, NAME, trial)
    assert (again.version, again.run_id, again.created) == ("1", first.run_id, False)
    after = client.get_model_version(NAME, "1")
    assert after.last_updated_timestamp == before.last_updated_timestamp
    assert len(client.search_model_versions(f"name='{NAME}'")) == 1


def test_another_training_is_another_version(workspace: Path, add_trial: Callable[..., str]) -> None:
    register_trial(workspace, NAME, add_trial(content="one"))
    made = register_trial(workspace, NAME, add_trial(content="two"))
    assert (made.created, made.version) == (True, "2")


def test_the_lower_of_two_versions_with_one_key_is_canonical(workspace: Path, client: Any, add_trial: Callable[..., str]) -> None:
    trial = add_trial()
    register_trial(workspace, NAME, trial)
    known = client.get_model_version(NAME, "1")
    with default_database(client.tracking_uri):
        client.create_model_version(NAME, known.source, known.run_id, tags=dict(known.tags))
    assert str(find_version(client, NAME, known.tags["stage_key"]).version) == "1"
    assert register_trial(workspace, NAME, trial).version == "1"


def test_new_scores_of_a_registered_release_replace_the_old_ones(workspace: Path, client: Any, add_trial: Callable[..., str]) -> None:
    trial = add_trial(right=(6, 6))
    register_trial(workspace, NAME, trial)
    add_trial(right=(8, 8))
    assert not register_trial(workspace, NAME, trial).created
    version = client.get_model_version(NAME, "1")
    assert version.tags["mean_accuracy"] == "0.800000"
    assert "0.800 [" in version.description


@pytest.mark.parametrize("stop", ["log_release", "_record_evaluation", "_create_version"])
def test_the_same_call_completes_an_interrupted_registration(
    workspace: Path, client: Any, add_trial: Callable[..., str], monkeypatch: pytest.MonkeyPatch, stop: str
) -> None:
    class Killed(BaseException):
        pass

    real = getattr(releases, stop)

    def killed(*arguments: Any, **named: Any) -> Any:
        if stop != "_create_version":
            real(*arguments, **named)
        raise Killed

    trial = add_trial()
    monkeypatch.setattr(releases, stop, killed)
    with pytest.raises(Killed):
        register_trial(workspace, NAME, trial)
    monkeypatch.setattr(releases, stop, real)
    made = register_trial(workspace, NAME, trial)
    assert (made.created, made.version) == (True, "1")
    experiment = client.get_run(made.run_id).info.experiment_id
    assert len(client.search_runs([experiment])) == 1
    assert steps(client, made.run_id) == [1, 2, 3]
    assert len(client.get_metric_history(made.run_id, "evaluation/mean_accuracy")) == 1
    assert len(client.search_logged_models([experiment])) == 1


def test_the_run_of_the_training_is_the_run_of_the_version(workspace: Path, client: Any, add_trial: Callable[..., str]) -> None:
    trial = add_trial()
    tracker = MlflowTracker(workspace, experiment=NAME, sampling_s=None)
    tracker.start(trial)
    tracker.log_metrics(1, {"loss": 3.0})
    tracker.log_release(workspace / "models" / trial)
    write_json(workspace / "runs" / trial / "run.json", tracker.describe())
    run_id = tracker.run_id
    client.set_terminated(run_id, status="KILLED")

    made = register_trial(workspace, NAME, trial)
    assert made.run_id == run_id
    run = client.get_run(run_id)
    assert run.info.status == "FINISHED", "the release is published, so the training had finished"
    assert "replayed" not in run.data.tags
    assert steps(client, run_id) == [1]
    assert len(client.search_logged_models([run.info.experiment_id])) == 1, "the version uses the model that the training logged"


def test_an_unknown_run_is_replayed_once(workspace: Path, client: Any, add_trial: Callable[..., str]) -> None:
    trial = add_trial(steps=5)
    made = register_trial(workspace, NAME, trial)
    run = client.get_run(made.run_id)
    assert run.data.tags["replayed"] == "true"
    assert run.data.tags["original_run_id"] == read_json(workspace / "runs" / trial / "run.json")["run_id"]
    assert run.info.status == "FINISHED"
    assert steps(client, made.run_id) == [1, 2, 3, 4, 5]
    assert run.data.params["lora.rank"] == "16"
    assert run.data.params["thinking.tokens"] == "25"
    other = register_trial(workspace, "coat-elsewhere", trial)
    assert other.run_id != made.run_id, "another model's experiment"
    assert register_trial(workspace, NAME, trial).run_id == made.run_id


def test_an_incomplete_upload_of_a_model_is_replaced(workspace: Path, client: Any, add_trial: Callable[..., str]) -> None:
    trial = add_trial()
    tracker = MlflowTracker(workspace, experiment=NAME, sampling_s=None)
    tracker.start(trial)
    key = read_json(workspace / "models" / trial / "coat.json")["fingerprint"]
    experiment = client.get_run(tracker.run_id).info.experiment_id
    half = client.create_logged_model(experiment, name="x", source_run_id=tracker.run_id, tags={"stage_key": key})
    tracker.log_release(workspace / "models" / trial)
    models = client.search_logged_models([experiment])
    assert [model.model_id for model in models] != [half.model_id]
    assert [str(model.status) for model in models] == ["READY"]


def test_a_pickle_is_found_among_the_artifacts(workspace: Path, client: Any, add_trial: Callable[..., str]) -> None:
    import pickle

    trial = add_trial()
    (workspace / "models" / trial / "extra.dat").write_bytes(pickle.dumps({"a": 1}))
    write_text(workspace / "bases/qwen2_audio/pytorch_model.bin", "x")
    register_trial(workspace, NAME, trial)
    found = client.get_model_version(NAME, "1").tags["unsafe_files"].splitlines()
    assert {Path(file).name for file in found} == {"extra.dat", "pytorch_model.bin"}


def test_a_missing_release_or_evaluation_is_an_error(workspace: Path, add_trial: Callable[..., str]) -> None:
    with pytest.raises(ReleaseError, match="not a release"):
        register_trial(workspace, NAME, "qwen2_audio-coat-9")
    trial = add_trial()
    (workspace / "evaluation" / trial / "scores.jsonl").unlink()
    with pytest.raises(RegistryError, match=r"was not evaluated.*coat answer qwen2_audio coat-0 && coat score qwen2_audio coat-0"):
        register_trial(workspace, NAME, trial)


def test_lineage_contains_data_and_code(workspace: Path, client: Any, add_trial: Callable[..., str]) -> None:
    made = register_trial(workspace, NAME, add_trial())
    client.set_registered_model_alias(NAME, "champion", "1")
    record = lineage(f"models:/{NAME}@champion", workspace)
    assert record == lineage(f"models:/{NAME}/1", workspace)
    assert record["data_sha256"] == sha256_file(workspace / "data/accepted.jsonl")
    assert record["base"] == {"id": "bases/qwen2_audio", "revision": "none", "licence": "Apache-2.0"}
    assert (record["contract"], record["aliases"], record["run"]["id"], record["run"]["replayed"]) == (
        "passed",
        ["champion"],
        made.run_id,
        True,
    )
    assert record["params"]["lora.rank"] == "16"
    text = lineage_text(record)
    for word in (record["data_sha256"], record["features_sha256"]["pitch"], "bases/qwen2_audio", made.run_id, "git_commit"):
        assert word in text
    assert "None" not in text


@pytest.mark.parametrize(
    "uri", ["models:/coat-qwen2-audio", "models:/coat-qwen2-audio/7", "models:/coat-qwen2-audio@nobody", "models:/unknown/1"]
)
def test_an_unknown_version_is_an_error(workspace: Path, add_trial: Callable[..., str], client: Any, uri: str) -> None:
    register_trial(workspace, NAME, add_trial())
    with pytest.raises(RegistryError, match="version"):
        lineage(uri, workspace)
