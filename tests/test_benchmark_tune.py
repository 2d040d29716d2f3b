"""Trials of `benchmarks.tune`: their params, their identity, and their paired differences."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks.differences import compare, markdown, merge
from benchmarks.trials import Task, Trial, add_row, changed, parse_trial
from benchmarks.tune import parse_options, tasks_of
from coat_core.errors import SettingsError
from coat_core.evaluation.answer_losses import AnswerLoss
from coat_core.evaluation.scores import ScoreRow, write_scores
from coat_core.storage import read_json, write_jsonl, write_text

PARAMS = """
backbones: {qwen2_audio: {base: bases/qwen2_audio}}
experts: {events: {implementation: spectral_events}, pitch: {implementation: f0_bins}}
trials: [base-0, sft-0, coat-0]
corpus: {clips_per_family: {train: 4, validation: 1, test: 1}}
"""


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    write_text(tmp_path / "params.yaml", PARAMS)
    write_text(tmp_path / "data/accepted.jsonl", "{}\n")
    return tmp_path


def finished(folder: Path, values: list[float], losses: list[float] | None) -> None:
    """Write the files of a finished trial: scores and losses of items `i0`, `i1`, …; every answer has two tokens."""
    rows = [
        ScoreRow(
            id=f"i{i}", family="music", task="t", group=f"g{i}", score=value, unscored=None, kind="choice", audio="own", chance=0.5
        )
        for i, value in enumerate(values)
    ]  # fmt: skip
    write_scores(folder / "scores.jsonl", rows)
    write_jsonl(folder / "losses.jsonl", [AnswerLoss(f"i{i}", loss, 2).__dict__ for i, loss in enumerate(losses or [])])


def row(key: str, label: str, seed: int) -> dict[str, Any]:
    return {"key": key, "label": label, "backbone": "qwen2_audio", "seed": seed}


def test_a_trial_is_an_arm_and_changes_of_any_depth(workspace: Path) -> None:
    trial = parse_trial(["coat", "label=weights", "rate=2e-3", "thinking.tokens=4", "losses.expert_weights={events: 3, pitch: .5}"])
    assert (trial.label, trial.arm) == ("weights", "coat")
    settings = Task(trial, workspace, workspace / "data/accepted.jsonl", "qwen2_audio", 1).settings()
    rates = settings.training.learning_rate, settings.training.rows_learning_rate, settings.training.heads_learning_rate
    assert rates == (0.002, 0.002, 0.002)
    assert (settings.thinking.tokens, settings.losses.expert_weights) == (4, {"events": 3.0, "pitch": 0.5})
    assert changed({}, {"losses.expert_weights.pitch": 2.0}) == {"losses": {"expert_weights": {"pitch": 2.0}}}
    assert parse_trial(["sft", "rate=1"]).label == "sft rate=1"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        pytest.param(["soft"], "is not an arm", id="no-arm"),
        pytest.param(["sft", "rate"], "NAME=VALUE", id="no-value"),
    ],
)
def test_a_trial_of_another_form_is_refused(words: list[str], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        parse_trial(words)


def test_a_change_that_has_no_effect_is_refused(workspace: Path) -> None:
    def settings(name: str) -> Any:
        return Task(Trial("t", "sft", {name: 1}), workspace, workspace / "data/accepted.jsonl", "qwen2_audio", 1).settings()

    with pytest.raises(SettingsError, match="another workspace"):
        settings("corpus.labelled_clips_per_family")
    with pytest.raises(SettingsError, match=r"thinking\.length"):
        settings("thinking.length")


def test_the_key_depends_on_params_seed_and_manifest(workspace: Path) -> None:
    manifest = workspace / "data/accepted.jsonl"

    def key(label: str = "t", seed: int = 1, **changes: Any) -> str:
        return Task(
            Trial(label, "coat", {k.replace("__", "."): v for k, v in changes.items()}), workspace, manifest, "qwen2_audio", seed
        ).key()

    first = key()
    assert key("another label") == key(latency__clips=3) == first
    assert len({first, key(seed=2), key(thinking__tokens=4), key(rate=0.5)}) == 4
    write_text(manifest, "{} \n")
    assert key() != first


def test_every_trial_gets_its_first_seed_before_any_gets_its_second(workspace: Path) -> None:
    write_text(workspace / "trials", "base\nsft training.respond_steps=9  # longer\n\ncoat label=K=8 thinking.tokens=8\n")
    options = parse_options(
        [
            "--workspace",
            str(workspace),
            "--trials",
            str(workspace / "trials"),
            "--seed",
            "100",
            "101",
            "--steps",
            "1",
            "2",
            "--set",
            "rate=3",
        ]
    )
    tasks = tasks_of(options)
    assert [(task.trial.arm, task.seed) for task in tasks] == [("base", 0), ("sft", 100), ("coat", 100), ("sft", 101), ("coat", 101)]
    assert tasks[1].settings().training.respond_steps == 9
    assert (tasks[2].trial.label, tasks[2].settings().training.respond_steps, tasks[2].settings().training.learning_rate) == ("K=8", 2, 3)
    with pytest.raises(SystemExit, match="not the label"):
        tasks_of(parse_options(["--workspace", str(workspace), "--trial", "sft", "--reference", "coat"]))
    with pytest.raises(SystemExit, match="one label"):
        tasks_of(parse_options(["--workspace", str(workspace), "--trial", "sft", "--trial", "sft"]))


def test_differences_are_paired_and_averaged_over_shared_seeds(tmp_path: Path) -> None:
    finished(tmp_path / "a", [1, 0, 0, 0, 1, 0], [1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    finished(tmp_path / "b", [1, 1, 0, 0, 1, 0], [1.0, 2.0, 3.0, 4.0, 5.0, 3.0])
    finished(tmp_path / "c", [1, 1, 1, 0, 1, 0], [0.0] * 6)
    rows = [row("a", "sft", 1), row("b", "coat", 1), row("c", "coat", 2), row("gone", "block", 1), {"arm": "without a key"}]
    result = compare(rows, tmp_path.joinpath, "sft")["qwen2_audio"]
    assert {*result} == {"sft", "coat"}
    coat = result["coat"]
    # Seed 1 alone is shared: the last item's loss falls by 3, the second item becomes right; 12 answer tokens.
    assert (coat["seeds"], coat["shared_seeds"]) == ([1, 2], [1])
    assert coat["answer_loss_difference"]["value"] == -0.25
    # Residuals of a ratio with equal counts: -3 and five zeros about their mean -0.5; their sum of squares is 7.5.
    assert coat["answer_loss_difference"]["error"] == pytest.approx((6 / 5 * 7.5) ** 0.5 / 12, abs=1e-6)
    assert coat["accuracy_difference"]["value"] == pytest.approx(1 / 6, abs=1e-6)
    # One of six differences is 1: variance 1/6, error √(1/6 ÷ 6).
    assert coat["accuracy_difference"]["error"] == pytest.approx(1 / 6, abs=1e-6)
    # The means of a trial are over all of its seeds: 9 of 12 right, losses 18 and 0 over 24 tokens.
    assert (coat["accuracy"], coat["answer_loss"]["value"]) == (0.583333, 0.75)
    table = markdown(merge({"qwen2_audio": {"old": coat}}, {"qwen2_audio": result}))
    assert [line.split(" | ")[1] for line in table.splitlines()[2:]] == ["old", "sft", "coat"]
    assert "-0.2500 ± 0.2500" in table


def test_a_described_trial_has_no_loss_and_other_items_are_not_compared(tmp_path: Path) -> None:
    finished(tmp_path / "a", [1, 0], [1.0, 2.0])
    finished(tmp_path / "b", [1, 1], None)
    finished(tmp_path / "c", [1, 1, 1], [1.0, 2.0, 3.0])
    result = compare([row("a", "sft", 1), row("b", "described", 1), row("c", "other", 1)], tmp_path.joinpath, "sft")["qwen2_audio"]
    assert (result["described"]["answer_loss"], result["described"]["answer_loss_difference"]) == (None, None)
    assert "different items" in result["other"]["not_comparable"]
    assert result["described"]["accuracy_difference"]["value"] == 0.5


def test_a_row_replaces_that_of_the_same_trial(tmp_path: Path) -> None:
    path = tmp_path / "test-benchmark-tune.json"
    for number, label in enumerate(("sft", "coat", "sft")):
        content = add_row(path, {**row("k", label, 1), "number": number}, lambda content: {"count": len(content["trials"])})
    assert content == read_json(path)
    assert [(entry["label"], entry["number"]) for entry in content["trials"]] == [("coat", 1), ("sft", 2)]
    assert content["count"] == 2
