"""The workspaces of `make evidence`: valid params, and points of a curve that differ only in their labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks import workspaces
from benchmarks.curves import POINT
from coat_core.errors import CoatError
from coat_core.pipeline.changes import apply_changes
from coat_core.settings import Settings, parse_settings, read_values
from coat_core.storage import write_jsonl


def settings_with(changes: dict[str, Any]) -> Settings:
    return parse_settings(apply_changes(read_values(workspaces.PARAMS), changes), "params")


def test_the_quick_comparison_is_a_part_of_the_central_one() -> None:
    central, quick = settings_with({}), settings_with(workspaces.quick()[workspaces.QUICK])
    assert set(quick.trials) < set(central.trials)
    for section in ("corpus", "experts", "thinking", "heads", "losses", "lora", "training", "backbones"):
        assert getattr(quick, section) == getattr(central, section)


def test_points_of_a_label_curve_differ_in_labels_and_the_use_of_the_other_clips() -> None:
    points = {name: settings_with(changes) for name, changes in workspaces.label_curves().items()}
    assert len(points) == 6
    assert all(POINT.match(name) for name in points)
    corpora = {(s.corpus.labelled_clips_per_family, s.training.unlabelled_batch_size) for s in points.values()}
    assert corpora == {(labels, batch) for labels in (50, 200, 800) for batch in (0, 8)}
    same = {s.corpus.model_copy(update={"labelled_clips_per_family": None}).model_dump_json() for s in points.values()}
    assert len(same) == 1
    for name, settings in points.items():
        seeds = [trial for trial in settings.trials if trial.startswith("coat-")]
        assert seeds == ["coat-1", "coat-2", "coat-3"]
        assert ("sft-1" in settings.trials) == name.endswith("-labelled")


def test_the_longer_sft_takes_the_time_of_coat(tmp_path: Path) -> None:
    with pytest.raises(CoatError, match="run the central workspace first"):
        workspaces.longer_sft(tmp_path)
    (tmp_path / "params.yaml").write_bytes(workspaces.PARAMS.read_bytes())
    for number, key in enumerate(settings_with({}).backbones):
        write_jsonl(tmp_path / "runs" / f"{key}-coat-1/history.jsonl", [{"seconds": 0.6 + number / 10}])
        write_jsonl(tmp_path / "runs" / f"{key}-sft-1/history.jsonl", [{"seconds": 0.5}])
    longer = settings_with(workspaces.longer_sft(tmp_path))
    assert (longer.training.ground_steps, longer.training.respond_steps) == (200, 1400)
    assert longer.trials == ("base-0", "sft-1", "sft-2", "sft-3")
