from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from coat_core.errors import EvaluationError
from coat_core.report.report import render_page
from coat_core.report.results import collect, describe_corpus, headline, metrics_for_dvc
from coat_core.report.tables import accuracy_csv, difference_text, markdown_tables, signed, summary_table, training_csv
from coat_core.settings import EvaluationSettings
from coat_core.storage import write_jsonl
from tests.testing.evaluations import BACKBONES, make_example, make_examples

SETTINGS = EvaluationSettings(bootstrap_resamples=200)
TRIALS = ("base-0", "sft-0", "sft-1", "coat-0", "coat-1")
Make = Callable[..., Path]


def test_only_the_named_backbones_and_trials_are_collected(make_workspace: Make) -> None:
    workspace = make_workspace([*TRIALS, "block-0"])
    results = collect(workspace, BACKBONES[:2], TRIALS, make_examples(), SETTINGS)
    assert list(results["backbones"]) == list(BACKBONES[:2])
    first = results["backbones"]["qwen2_audio"]
    assert list(first["arms"]) == ["base", "sft", "coat"]
    assert set(first["differences"]) == {"coat-sft", "coat-base", "sft-base"}
    assert first["differences"]["coat-sft"]["seeds"] == [0, 1]
    assert set(first["arms"]["coat"]["seeds"]) == {"0", "1"}
    assert (results["seeds"], results["brief"], results["contract"]["passed"]) == ([0, 1], True, True)
    assert first["training"]["coat-0"]["steps"] == 90
    assert first["training"]["coat-0"]["losses"]["answer"]["first"] > first["training"]["coat-0"]["losses"]["answer"]["last"]
    assert first["latency"]["ratios"]["first_token_s"]["median"] == 1.08


def test_the_accuracy_of_an_arm_is_the_mean_over_its_seeds(make_workspace: Make) -> None:
    results = collect(make_workspace(TRIALS), BACKBONES[:1], TRIALS, make_examples(), SETTINGS)
    arm = results["backbones"]["qwen2_audio"]["arms"]["coat"]
    assert arm["mean"]["accuracy"] == pytest.approx((arm["seeds"]["0"]["mean"] + arm["seeds"]["1"]["mean"]) / 2, abs=1e-5)
    assert arm["families"]["transcription"]["chance"] == pytest.approx(0.1)
    assert arm["families"]["music"]["chance"] == pytest.approx(0.25)


def test_the_same_files_give_the_same_results(make_workspace: Make) -> None:
    workspace = make_workspace(TRIALS)
    first, second = (collect(workspace, BACKBONES, TRIALS, make_examples(), SETTINGS) for _ in range(2))
    assert first == second


def test_a_missing_evaluation_is_named(make_workspace: Make) -> None:
    with pytest.raises(EvaluationError, match="score@qwen2_audio-coat-2"):
        collect(make_workspace(TRIALS), BACKBONES[:1], ["coat-2"], make_examples(), SETTINGS)


def test_different_evaluation_sets_are_refused(make_workspace: Make) -> None:
    workspace = make_workspace(["sft-0"])
    make_workspace(["coat-0"], examples=make_examples(12))
    with pytest.raises(EvaluationError, match="the same evaluation set"):
        collect(workspace, BACKBONES, ["sft-0", "coat-0"], make_examples(), SETTINGS)


@pytest.mark.parametrize(
    ("difference", "low", "high", "sentence"),
    [
        (0.053, -0.01, 0.11, "5.3 points above sft, and the interval includes zero (95% interval -1.0 to +11.0): no difference is shown"),
        (0.053, 0.01, 0.11, "5.3 points above sft, and the interval excludes zero"),
        (-0.053, -0.1, -0.01, "5.3 points below sft, and the interval excludes zero"),
    ],
)
def test_the_headline_states_the_interval(difference: float, low: float, high: float, sentence: str) -> None:
    mean = {"difference": difference, "low": low, "high": high, "includes_zero": low <= 0 <= high}
    backbones = {"a": {"differences": {"coat-sft": {"mean": mean}}}, "b": {"differences": {}}}
    results = {"measured": {"confidence": 0.95}, "backbones": backbones}
    assert sentence in headline(results, "a")
    assert "nothing to compare" in headline(results, "b")


def test_the_end_of_an_interval_below_zero_is_shown_below_zero() -> None:
    assert difference_text({"difference": 0.0118, "low": -0.0001, "high": 0.0254}) == "+.012 [−.000, +.025]"
    assert [signed(value) for value in (-0.0004, 0.0, -1e-12, 0.0004, -1.5)] == ["−0.000", "+0.000", "+0.000", "+0.000", "−1.500"]


def test_tables_contain_every_arm_and_family(make_workspace: Make) -> None:
    workspace = make_workspace(TRIALS)
    results = collect(workspace, BACKBONES, TRIALS, make_examples(), SETTINGS)
    markdown, terminal = markdown_tables(results), summary_table(results)
    accuracy = results["backbones"]["qwen2_audio"]["arms"]["coat"]["families"]["music"]["accuracy"]
    for text in (markdown, terminal):
        assert f"{accuracy:.3f}".removeprefix("0") in text
        assert all(name in text for name in ("Qwen2-Audio", "Audio Flamingo 3", "sft", "transcription", "Fewer than 3 seeds"))
        assert headline(results, "qwen2_5_omni") in text
    for table in markdown.split("###")[1:]:
        body = [line.count("|") for line in table.splitlines() if line.startswith("|") and "latency" not in line][:8]
        assert len(set(body)) == 1
    rows = accuracy_csv(results).splitlines()
    assert rows[0] == "backbone,arm,family,accuracy,low,high,chance"
    assert len(rows) == 1 + 3 * 3 * 6
    assert f"qwen2_audio,coat,music,{accuracy}," in "\n".join(rows)
    steps = training_csv(workspace, results).splitlines()
    assert steps[0] == "backbone,trial,step,stage,answer_loss,validation_loss,affect_loss,events_loss,pitch_loss"
    assert steps[1].startswith("qwen2_audio,sft-0,1,ground,2.0,,,")
    assert len(steps) == 1 + 3 * 4 * 90
    metrics = metrics_for_dvc(results)["qwen2_audio"]
    assert list(metrics) == ["base", "sft", "coat", "coat_minus_sft", "low", "high"]
    assert metrics["low"] <= metrics["coat_minus_sft"] <= metrics["high"]


def test_a_long_training_has_at_most_a_hundred_points(tmp_path: Path) -> None:
    rows = [{"step": step, "stage": "respond", "loss/answer": float(step)} for step in range(1, 1001)]
    rows[499]["validation/answer"] = 1.25
    write_jsonl(tmp_path / "runs/qwen2_audio-sft-1/history.jsonl", rows)
    lines = training_csv(tmp_path, {"backbones": {"qwen2_audio": {"training": {"sft-1": {}}}}}).splitlines()
    assert len(lines) == 1 + 100
    assert lines[1] == "qwen2_audio,sft-1,10,respond,5.5,"
    assert lines[50] == "qwen2_audio,sft-1,500,respond,495.5,1.25"
    assert lines[-1] == "qwen2_audio,sft-1,1000,respond,995.5,"


def test_the_page_colours_only_intervals_that_exclude_zero(make_workspace: Make, tmp_path: Path) -> None:
    results = collect(make_workspace(TRIALS), BACKBONES, TRIALS, make_examples(), SETTINGS)
    page = render_page(results, tmp_path)
    gaps = [values for backbone in results["backbones"].values() for values in backbone["differences"].values()]
    entries = [entry for values in gaps for entry in (*values["families"].values(), values["mean"])]
    shown = sum(not entry["includes_zero"] for entry in entries)
    assert 0 < shown < len(entries)
    assert page.count("<span class=yes>") == shown
    claims = [backbone["differences"]["coat-sft"]["mean"] for backbone in results["backbones"].values()]
    assert page.count('<div class="card clear">') == sum(not claim["includes_zero"] for claim in claims)
    assert page.count("<dt>") == page.count("<dd>") > 8


def test_the_corpus_is_counted() -> None:
    examples = [*make_examples(6), make_example(0, split="train"), make_example(1, split="train", sha256=make_example(0).sha256)]
    corpus = describe_corpus(examples, "test")
    assert corpus["splits"]["test"] == {"examples": 30, "unlabelled": 0, "clips": 30, "groups": 30, "minutes": 1.75}
    assert corpus["splits"]["train"]["clips"] == 1
    examples.append(make_example(2, split="train", answer=None, choices=None))
    train = describe_corpus(examples, "test")["splits"]["train"]
    assert (train["examples"], train["unlabelled"], train["clips"]) == (2, 1, 2)
    assert corpus["families"]["music"]["choices"] == [4]
    assert corpus["families"]["transcription"]["choices"] == [0]
