"""Public benchmarks in the graph: stages only where params name them, and what a change of files or rules makes stale."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from coat_core.cli import app
from coat_core.errors import EvaluationError, StageError
from coat_core.evaluation.benchmarks.catalogue import SUITES, find_suite
from coat_core.pipeline.graph import Stage, read_graph
from coat_core.pipeline.suites import list_suites
from coat_core.pipeline.workspace import make_workspace, match_graph
from coat_core.settings import SuiteKey, SuiteSettings, load_settings, parse_settings
from coat_core.storage import read_json
from tests.testing.benchmark_miniatures import clip_bytes, write_miniature, write_miniatures

ROOT = Path(__file__).resolve().parents[2]
CHOSEN = {"mmau": {"data": "../mmau"}, "gtzan": {"data": "../gtzan"}}


@pytest.fixture(scope="module")
def values() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "params.yaml").read_text())


@pytest.fixture(scope="module")
def graph(values: dict[str, Any]) -> dict[str, Stage]:
    return read_graph(ROOT, {**values, "evaluation": {**values["evaluation"], "suites": CHOSEN}})


def test_params_know_every_benchmark_of_the_catalogue() -> None:
    assert set(SuiteKey.__args__) == set(SUITES)


def test_the_default_graph_has_no_benchmarks(values: dict[str, Any]) -> None:
    assert not any("suite" in name for name in read_graph(ROOT, values))


def test_a_model_reads_questions_and_a_scorer_items(graph: dict[str, Stage]) -> None:
    assert sum(stage.kind == "suite" for stage in graph.values()) == len(CHOSEN)
    assert sum(stage.kind == "answer_suite" for stage in graph.values()) == 3 * 3 * len(CHOSEN)
    answer, score = graph["answer_suite@qwen2_audio-coat-0-mmau"], graph["score_suite@qwen2_audio-coat-0-mmau"]
    assert answer.inputs == ("suites/mmau/questions", "bases/qwen2_audio", "models/qwen2_audio-coat-0")
    assert score.inputs == ("suites/mmau/items", *answer.outs)
    rules = "coat_core/evaluation/benchmarks/rules"
    assert not any(dep.startswith(rules) or "benchmarks/suites" in dep or dep.endswith("data.py") for dep in answer.deps)
    assert rules in score.deps
    assert "evaluation.suites.mmau" not in answer.params, "another judge or another folder is no reason to answer again"
    others = [name for name in graph if name.startswith("answer@") or name.startswith("score@")]
    assert not any("suites" in path for name in others for path in (*graph[name].deps, *graph[name].params, *graph[name].outs))


def test_a_change_of_files_is_seen(tmp_path: Path) -> None:
    chosen = {"mmau": SuiteSettings(data="mmau"), "alpaca_audio": SuiteSettings(data="alpaca", accept_licence=True)}
    data = write_miniature("mmau", tmp_path / "mmau")
    write_miniature("alpaca_audio", tmp_path / "alpaca")
    assert [list_suites(tmp_path, chosen) for _ in range(2)] == [2, 0]
    listed = read_json(tmp_path / "suites/mmau/source.json")
    assert (listed["source"], listed["split"], listed["clips"]) == ("mmau", "test-mini", 3)
    (data / "test-mini-audios/m1.wav").write_bytes(clip_bytes(7))
    assert list_suites(tmp_path, chosen) == 1
    os.utime(data / "test-mini-audios/m2.wav", (1, 1))
    assert list_suites(tmp_path, chosen) == 1
    text = (data / "mmau-test-mini.json").read_text()
    (data / "mmau-test-mini.json").write_text(text.replace("Which sound", "What sound"))
    assert list_suites(tmp_path, chosen) == 1
    assert read_json(tmp_path / "suites/mmau/source.json")["md5"] != listed["md5"]


def test_a_second_split_has_a_key_of_its_own(tmp_path: Path) -> None:
    write_miniature("gtzan", tmp_path / "gtzan")
    chosen = {"gtzan": SuiteSettings(data="gtzan"), "gtzan_valid": SuiteSettings(suite="gtzan", data="gtzan", split="fault-filtered-valid")}
    assert list_suites(tmp_path, chosen) == 2
    assert read_json(tmp_path / "suites/gtzan_valid/source.json")["split"] == "fault-filtered-valid"


def test_the_command_lists_them_as_a_run_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, values: dict[str, Any]) -> None:
    write_miniature("gtzan", tmp_path / "gtzan")
    changed = {**values, "evaluation": {**values["evaluation"], "suites": {"gtzan": {"data": "gtzan"}}}}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(changed))
    monkeypatch.chdir(tmp_path)
    listed = [CliRunner().invoke(app, ["source"], catch_exceptions=False).output.strip() for _ in range(2)]
    assert listed == ["1 public benchmarks: 1 new or changed", "1 public benchmarks: 0 new or changed"]


def test_everything_that_must_be_fetched_is_named_at_once(tmp_path: Path) -> None:
    suites = {name: SuiteSettings(**section) for name, section in write_miniatures(tmp_path / "data").items()}
    assert list_suites(tmp_path, suites) == len(SUITES)
    (tmp_path / "data/mmau/test-mini-audios/m0.wav").unlink()
    suites["gtzan"] = SuiteSettings(data="nowhere")
    suites["mmar"] = suites["mmar"].model_copy(update={"accept_licence": False})
    suites["alpaca_audio"] = suites["alpaca_audio"].model_copy(update={"judge": "local", "judge_model": "models/judge/7b"})
    with pytest.raises(EvaluationError) as caught:
        list_suites(tmp_path, suites)
    text = str(caught.value)
    assert f"4 of {len(SUITES)} benchmarks in evaluation.suites cannot be read" in text
    assert "mmau: 1 of 3 clips are missing" in text
    assert "'./test-mini-audios/m0.wav'" in text
    assert "gtzan: no such folder, and not a data set of the hub; field: data; value: 'nowhere'" in text
    assert find_suite("gtzan").layout.origin in text
    assert "mmar: the licence of MMAR forbids commercial use" in text
    assert "accept_licence: true" in text
    assert "alpaca_audio: the judge cannot be used: no such folder, and not a valid hub id; field: judge_model" in text


def test_a_graph_from_before_there_were_benchmarks_is_refused(tmp_path: Path, values: dict[str, Any]) -> None:
    old = yaml.safe_load((ROOT / "dvc.yaml").read_text())
    old["stages"] = {name: body for name, body in old["stages"].items() if "suite" not in name}
    (tmp_path / "dvc.yaml").write_text(yaml.safe_dump(old))
    experts = parse_settings(values).experts
    with pytest.raises(StageError, match=r"coat workspace \. --params"):
        match_graph(tmp_path, experts, suites=True)
    match_graph(tmp_path, experts)


def test_params_from_before_there_were_benchmarks_make_a_workspace(tmp_path: Path) -> None:
    text = (ROOT / "params/tiny.yaml").read_text()
    assert "\n  suites: {}" in text
    (tmp_path / "old.yaml").write_text(text.replace("\n  suites: {}", ""))
    made = make_workspace(tmp_path / "place", tmp_path / "old.yaml")
    assert yaml.safe_load((made / "params.yaml").read_text())["evaluation"]["suites"] == {}
    assert load_settings(made / "params.yaml") == load_settings(ROOT / "params/tiny.yaml")
