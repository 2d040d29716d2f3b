"""Public benchmarks in the report."""

from __future__ import annotations

from pathlib import Path

import pytest

from coat_core.errors import EvaluationError
from coat_core.evaluation.statistics import Bootstrap
from coat_core.report.suites import collect_suites, suite_rows, suites_markdown, suites_text
from tests.testing.suite_results import write_judged_result, write_suite_result

BACKBONE = "qwen2_audio"
TRIALS = ("base-0", "sft-0", "sft-1", "coat-0", "coat-1")
RIGHT = {"base-0": 10, "sft-0": 16, "sft-1": 20, "coat-0": 24, "coat-1": 28}


@pytest.fixture
def results(tmp_path: Path) -> dict:
    for trial, right in RIGHT.items():
        write_suite_result(tmp_path, BACKBONE, trial, right)
    return {"backbones": {BACKBONE: {}}, "suites": collect_suites(tmp_path, [BACKBONE], TRIALS, ["mmau"], Bootstrap(200))}


def test_both_readings_of_every_trial(results: dict) -> None:
    suite = results["suites"]["mmau"]
    assert (suite["title"], suite["split"], suite["n"]) == ("MMAU", "made", 40)
    trials = suite["backbones"][BACKBONE]["trials"]
    assert {trial: entry["strict"]["value"] for trial, entry in trials.items()} == {trial: right / 40 for trial, right in RIGHT.items()}
    assert trials["coat-0"]["official"]["value"] == pytest.approx(23 / 40), "the script reads no letters"
    assert not any("items" in entry or "groups" in entry for entry in trials.values())
    header, first, *others = suite_rows(results, BACKBONE)
    assert first[:4] == ["MMAU, made", "base-0", first[2], "0.225"]
    assert first[2].startswith("0.250 [")
    assert dict(zip(header, first, strict=True))["notes"] == "1 clips cut, 1 responses cut off"
    assert [row[1] for row in others] == [*TRIALS[1:], "coat − sft"]
    assert all(len(row) == len(header) for row in others)


def test_coat_minus_sft_is_paired_over_items_and_averaged_over_seeds(results: dict) -> None:
    found = results["suites"]["mmau"]["backbones"][BACKBONE]["difference"]
    assert (found["value"], found["seeds"], found["n"], found["too_few"]) == (0.2, [0, 1], 40, False)
    assert found["low"] < 0.2 < found["high"]
    assert found["resampling"].endswith("+seed")


def test_texts(results: dict) -> None:
    text = suites_markdown(results)
    assert "### Public benchmarks, Qwen2-Audio" in text
    assert "| MMAU, made | base-0 |" in text
    assert "coat-1 0.700" in suites_text(results)
    assert "sft-0 0.400" in suites_text(results)
    assert suites_markdown({"backbones": {BACKBONE: {}}}) == suites_text({"backbones": {BACKBONE: {}}}) == ""


def test_the_notes_say_how_far_a_judge_agrees_with_itself(tmp_path: Path) -> None:
    write_judged_result(tmp_path, BACKBONE, "coat-0", ("9 5", "7 8", "9 6", "6 9", "good"))
    suites = collect_suites(tmp_path, [BACKBONE], ["coat-0"], ["air_bench_chat"], Bootstrap(200))
    header, row = suite_rows({"backbones": {BACKBONE: {}}, "suites": suites}, BACKBONE)
    notes = dict(zip(header, row, strict=True))["notes"]
    assert "judge: told" in notes
    assert "1 of 6 judgements unreadable" in notes
    assert "agreement of the two places: the same score in both for 50.0% of 2 items" in notes
    assert "preference for the first place: +1.00 of 10 points" in notes


def test_a_missing_result_names_its_stage(tmp_path: Path) -> None:
    write_suite_result(tmp_path, BACKBONE, "sft-0", 3)
    with pytest.raises(EvaluationError, match="run score_suite@qwen2_audio-coat-0-mmau"):
        collect_suites(tmp_path, [BACKBONE], ["sft-0", "coat-0"], ["mmau"], Bootstrap(100))
    alone = collect_suites(tmp_path, [BACKBONE], ["sft-0"], ["mmau"], Bootstrap(100))
    assert alone["mmau"]["backbones"][BACKBONE]["difference"] is None
