"""What a model card on the hub is written from: a version's own evaluation, its control's, and the licences of its data."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from coat_core.errors import RegistryError
from coat_core.registry import releases
from coat_core.registry.data_licences import find_licences
from coat_core.registry.evaluations import find_evaluations
from coat_core.registry.releases import register_trial
from coat_core.storage import write_text
from tests.testing.scores import write_evaluation

NAME = "coat-qwen2-audio"


def registered(workspace: Path, add_trial: Callable[..., str]) -> tuple[str, Path]:
    """Register a trial with its control; return its URI and its release outside of the workspace."""
    trial = add_trial()
    add_trial("qwen2_audio-sft-0", right=(4, 5))
    write_text(workspace / "params.yaml", "evaluation: {bootstrap_resamples: 100, confidence: 0.9}\n")
    uri = register_trial(workspace, NAME, trial).uri
    return uri, shutil.copytree(workspace / "models" / trial, workspace.parent / "elsewhere" / trial)


def test_a_version_has_its_evaluation_and_its_controls_without_the_workspace(
    workspace: Path, client: Any, add_trial: Callable[..., str]
) -> None:
    uri, release = registered(workspace, add_trial)
    here = find_evaluations(uri, release, workspace)
    expected = (here.tables, here.difference, here.metrics)
    for folder in ("evaluation", "data"):
        shutil.rmtree(workspace / folder)
    stored = find_evaluations(uri, release, workspace)
    assert stored.control == "sft"
    assert stored.bootstrap.confidence == 0.9
    assert [*stored.tables] == ["coat", "sft", "base"]
    assert (stored.tables, stored.difference, stored.metrics) == expected
    assert stored.difference is not None
    assert stored.difference["mean"]["difference"] == pytest.approx(0.15)
    (entry,) = find_licences(uri, release, workspace)
    assert (entry.source, entry.licence, entry.examples, entry.known) == ("generated", "CC0-1.0", 2, True)


def test_a_workspace_adds_seeds_only_if_it_still_has_this_evaluation(workspace: Path, add_trial: Callable[..., str]) -> None:
    uri, release = registered(workspace, add_trial)
    for trial in ("coat-1", "sft-1", "sft-2"):
        write_evaluation(workspace / f"evaluation/qwen2_audio-{trial}", (20, 20), 40)
    write_evaluation(workspace / "evaluation/qwen2_audio-coat-2", (20, 20), 40, questions="other")
    found = find_evaluations(uri, release, workspace)
    assert ([*found.own], [*found.controls]) == ([0, 1], [0, 1, 2])
    assert found.difference is not None
    assert found.difference["seeds"] == [0, 1]
    write_evaluation(workspace / "evaluation/qwen2_audio-coat-0", (1, 1), 40)
    found = find_evaluations(uri, release, workspace)
    assert ([*found.own], [*found.controls]) == ([0], [0]), "those that are stored with the version"
    assert found.tables["coat"]["mean"]["accuracy"] == pytest.approx(0.6)


def test_licences_of_an_older_version_come_from_a_workspace_with_the_same_data(
    workspace: Path, add_trial: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(releases, "MANIFEST", "data/absent.jsonl")
    uri, release = registered(workspace, add_trial)
    assert find_licences(uri, release, workspace)[0].licence == "CC0-1.0"
    write_text(workspace / "data/accepted.jsonl", (workspace / "data/accepted.jsonl").read_text() + "\n")
    with pytest.raises(RegistryError, match="not stored with this version"):
        find_licences(uri, release, workspace)


@pytest.mark.parametrize(
    ("arm", "control"),
    [("coat", "sft"), ("block", "sft"), ("sft", "base"), ("align", "sft"), ("described", "sft"), ("coat_shuffled", "sft"), ("base", None)],
)
def test_every_arm_has_its_control(arm: str, control: str | None) -> None:
    assert releases.control_of(arm) == control
