"""Comparisons across workspaces."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.curves import against_long, curve_markdown, equal_time_steps, label_curve
from benchmarks.saved_scores import SavedScores
from coat_core.errors import EvaluationError
from coat_core.evaluation.scores import ScoreRow, write_scores
from coat_core.evaluation.statistics import Bootstrap
from coat_core.storage import write_jsonl, write_text

KEY = "qwen2_audio"
PARAMS = """
backbones: {qwen2_audio: {base: b}}
experts: {events: {implementation: spectral_events}}
trials: [sft-1, sft-2, sft-3, coat-1, coat-2, coat-3]
corpus: {clips_per_family: {train: 1, validation: 1, test: 1}}
training: {ground_steps: 20, respond_steps: 80}
latency: {baseline: sft-1, candidate: coat-1}
registry: {candidate: coat-1}
"""


def workspace(root: Path, name: str, right: dict[str, int], of: int = 24, seeds: tuple[int, ...] = (1, 2)) -> Path:
    """Write a workspace in which the first `right[arm]` items are right and the last is unscored, for each seed."""
    write_text(root / name / "params.yaml", PARAMS)
    for arm, count in right.items():
        for seed in seeds:
            rows = [
                ScoreRow(
                    id=f"i{i}", family="music", task="t", group=f"g{i}", score=float(i < count) if i < of - 1 else None,
                    unscored=None if i < of - 1 else "no choice", kind="choice", audio="own", chance=0.5,
                )
                for i in range(of)
            ]  # fmt: skip
            write_scores(root / name / "evaluation" / f"{KEY}-{arm}-{seed}" / "scores.jsonl", rows)
    return root / name


def test_a_curve_has_a_point_for_each_finished_workspace(tmp_path: Path) -> None:
    workspace(tmp_path, "evidence-labels-200", {"coat": 18})
    workspace(tmp_path, "evidence-labels-50", {"sft": 6, "coat": 12})
    workspace(tmp_path, "evidence-labels-50-labelled", {"sft": 6, "coat": 6})
    workspace(tmp_path, "evidence-labels-200-labelled", {"sft": 12, "coat": 12})
    workspace(tmp_path, "evidence-labels-800", {"sft": 6})
    workspace(tmp_path, "evidence-labels-800-old", {"sft": 6, "coat": 6})
    curve = label_curve(tmp_path, KEY, Bootstrap(200), SavedScores(tmp_path / "none"))
    points = [(point["labelled_clips_per_family"], point["unlabelled"], point["coat-sft"]["difference"]) for point in curve]
    assert points == [(50, False, 0.0), (50, True, 0.25), (200, False, 0.0), (200, True, 0.25)]
    assert [point["accuracy"]["coat"]["accuracy"] for point in curve] == [0.25, 0.5, 0.5, 0.75]
    assert curve[0]["coat-sft"]["resampling"] == "group+seed"
    assert curve_markdown({KEY: curve}).splitlines()[3].startswith("| Qwen2-Audio | 50 | used | 1, 2 | .250 [")


def test_seeds_of_two_machines_add_up(tmp_path: Path) -> None:
    path = tmp_path / "scores.jsonl"
    for machine, seeds in (("first", (1,)), ("second", (2, 3))):
        root = tmp_path / machine
        workspace(root, "evidence-labels-50-labelled", {"sft": 6, "coat": 12}, seeds=seeds)
        saved = SavedScores(path)
        (point,) = label_curve(root, KEY, Bootstrap(200), saved)
        saved.write()
    assert point["seeds"] == [1, 2, 3]
    whole = tmp_path / "whole"
    workspace(whole, "evidence-labels-50-labelled", {"sft": 6, "coat": 12}, seeds=(1, 2, 3))
    expected = label_curve(whole, KEY, Bootstrap(200), SavedScores(tmp_path / "none"))
    assert label_curve(tmp_path / "nothing", KEY, Bootstrap(200), SavedScores(path)) == expected == [point]
    assert point["accuracy"]["coat"]["unscored_share"] == round(1 / 24, 6)


def test_a_trial_on_other_items_is_not_added_to_the_saved_ones(tmp_path: Path) -> None:
    workspace(tmp_path, "evidence-labels-50-labelled", {"sft": 6, "coat": 12})
    saved = SavedScores(tmp_path / "scores.jsonl")
    label_curve(tmp_path, KEY, Bootstrap(200), saved)
    workspace(tmp_path, "evidence-labels-200-labelled", {"sft": 6, "coat": 12}, of=30)
    with pytest.raises(EvaluationError, match="other items than the saved ones"):
        label_curve(tmp_path, KEY, Bootstrap(200), saved)


def test_a_point_uses_the_seeds_that_both_arms_have(tmp_path: Path) -> None:
    workspace(tmp_path, "evidence-labels-50-labelled", {"sft": 6}, seeds=(1, 2))
    workspace(tmp_path, "evidence-labels-50-labelled", {"coat": 12}, seeds=(2, 3))
    (point,) = label_curve(tmp_path, KEY, Bootstrap(200), SavedScores(tmp_path / "none"))
    assert point["seeds"] == [2]
    assert point["coat-sft"]["difference"] == 0.25


def test_coat_is_compared_with_a_longer_sft_on_the_same_items(tmp_path: Path) -> None:
    saved = SavedScores(tmp_path / "none")
    workspace(tmp_path, "evidence-recordings", {"sft": 6, "coat": 12})
    assert against_long(tmp_path, KEY, Bootstrap(200), saved) is None
    workspace(tmp_path, "evidence-recordings-long", {"sft": 9})
    found = against_long(tmp_path, KEY, Bootstrap(200), saved)
    assert found is not None
    assert (found["sft_long"]["accuracy"], found["coat-sft_long"]["difference"]) == (0.375, 0.125)
    workspace(tmp_path, "evidence-recordings-long", {"sft": 9}, of=30)
    with pytest.raises(EvaluationError, match="other items"):
        against_long(tmp_path, KEY, Bootstrap(200), saved)


def test_steps_of_equal_time_are_computed_from_medians(tmp_path: Path) -> None:
    folder = workspace(tmp_path, "evidence-recordings", {})
    assert equal_time_steps(folder, KEY) is None
    # Medians 0.6 and 0.5 s a step: 100 steps of coat take as long as 120 of sft. A first slow step does not count.
    for trial, seconds in {"coat-1": [9.0, 0.6, 0.6], "coat-2": [0.6, 0.6, 0.5], "sft-1": [5.0, 0.5, 0.5, 0.5]}.items():
        write_jsonl(folder / "runs" / f"{KEY}-{trial}" / "history.jsonl", [{"step": i, "seconds": s} for i, s in enumerate(seconds)])
    assert equal_time_steps(folder, KEY) == 120
