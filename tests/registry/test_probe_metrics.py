from __future__ import annotations

from pathlib import Path
from typing import Any

from coat_core.probing.verdict import flat_metrics
from coat_core.registry.tracking import MlflowTracker, log_to_recorded_run
from coat_core.storage import write_json
from tests.testing.probes import invented_probe


def test_probes_are_logged_with_the_run_that_trained_the_release(workspace: Path, client: Any) -> None:
    tracker = MlflowTracker(workspace, experiment="coat-x", stage_key="k", sampling_s=None)
    tracker.start("qwen2_audio-coat-0")
    tracker.log_metrics(1, {"loss/answer": 0.5})
    records = workspace / "runs/qwen2_audio-coat-0"
    write_json(records / "run.json", tracker.describe())
    run_id = tracker.run_id
    tracker.finish("finished")
    flat = flat_metrics(invented_probe())
    for _ in range(2):
        assert log_to_recorded_run(workspace, records, flat) == run_id
    metrics = client.get_run(run_id).data.metrics
    assert metrics == {"loss/answer": 0.5, **flat}
    assert len(client.get_metric_history(run_id, "probe/knock_out_cost")) == 1, "equal values are logged once"
    # A resumed training continues after its own last step.
    resumed = MlflowTracker(workspace, experiment="coat-x", stage_key="k", sampling_s=None)
    resumed.start("qwen2_audio-coat-0", run_id=run_id)
    assert resumed.last_step == 1
    resumed.finish("finished")


def test_without_a_run_nothing_is_logged(workspace: Path) -> None:
    assert log_to_recorded_run(workspace, workspace / "runs/absent", {"probe/knock_out_cost": 0.1}) is None
    write_json(workspace / "runs/old/run.json", {"run_id": "0" * 32})
    assert log_to_recorded_run(workspace, workspace / "runs/old", {"probe/knock_out_cost": 0.1}) is None
