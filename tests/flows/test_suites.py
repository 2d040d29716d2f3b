"""Miniatures of all public benchmarks through `coat run`, in one workspace: stages, report, MLflow, gate, and what runs again."""

from __future__ import annotations

import html
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
import yaml

from coat_core.evaluation.benchmarks.catalogue import SUITES
from coat_core.storage import read_json
from tests.report.page import assert_accessible
from tests.testing import chain_runs
from tests.testing.benchmark_miniatures import ITEMS, write_miniatures

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

TRIAL = "qwen2_audio-coat-0"
JUDGED = ("air_bench_chat", "alpaca_audio")


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One backbone, one trial, every benchmark; the chain has completed once."""
    folder = tmp_path_factory.mktemp("suites")
    params = yaml.safe_load(chain_runs.PARAMS.read_text())
    suites = write_miniatures(folder / "benchmarks")
    for name in JUDGED:
        suites[name]["judge"] = "stand-in"
    params["trials"] = ["coat-0"]
    params["latency"] |= {"baseline": "coat-0", "candidate": "coat-0"}
    params["evaluation"]["suites"] = suites
    # So few items are too few to judge: the gate must say so.
    params["registry"]["min_suites"] = {"mmau": 0.0}
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    made = chain_runs.make_tiny(folder / "workspace", folder / "params.yaml")
    chain_runs.run_chain(made)
    return made


def _printed(workspace: Path) -> str:
    return (workspace / "coat-run.log").read_text()


def test_every_benchmark_is_answered_scored_and_shown(workspace: Path) -> None:
    printed = _printed(workspace)
    ran = chain_runs.ran_stages(printed)
    for kind in ("suite", "answer_suite", "score_suite"):
        assert sum(stage.startswith(f"{kind}@") for stage in ran) == len(SUITES)
    assert f"{len(SUITES)} public benchmarks: {len(SUITES)} new or changed" in printed
    results = read_json(workspace / "report/results.json")["suites"]
    assert set(results) == set(SUITES)
    page, tables = (workspace / "report/report.html").read_text(), (workspace / "report/tables.md").read_text()
    for name, suite in results.items():
        entry = suite["backbones"]["qwen2_audio"]["trials"]["coat-0"]
        assert suite["n"] == ITEMS + (name == "mmau_pro")
        assert 0.0 <= entry["strict"]["low"] <= entry["strict"]["value"] <= entry["strict"]["high"] <= 1.0
        assert entry["responses"]["not_asked"] == (name == "mmau_pro")
        assert entry["record"]["judge"] == ("stand-in: F1 of words" if name in JUDGED else None)
        assert suite["title"] in html.unescape(page)
        assert suite["title"] in tables
        assert suite["title"] in printed
    assert_accessible(page)


def test_mlflow_has_the_numbers_with_their_intervals(workspace: Path) -> None:
    with closing(sqlite3.connect(workspace / "mlflow.db")) as connection:
        rows = dict(connection.execute("SELECT key, value FROM latest_metrics WHERE key LIKE 'suites/%'"))
        tags = dict(connection.execute("SELECT key, value FROM model_version_tags"))
    for name in SUITES:
        result = read_json(workspace / f"evaluation/suites/{TRIAL}-{name}/result.json")
        assert rows[f"suites/{name}/strict"] == result["strict"]["value"]
        assert rows[f"suites/{name}/strict_low"] <= rows[f"suites/{name}/strict"] <= rows[f"suites/{name}/strict_high"]
        assert (f"suites/{name}/official" in rows) == (result["official"]["value"] is not None)
        assert f"suite.{name}" in tags
    assert "mmau: strict score" in tags["decision_reasons"]
    assert "over 3 items is too few to judge" in tags["decision_reasons"]


def test_a_second_run_runs_nothing_and_a_corrected_answer_asks_no_model_again(workspace: Path) -> None:
    assert chain_runs.ran_stages(chain_runs.run_chain(workspace)) == []
    folder = workspace.parent / "benchmarks/mmau"
    responses = workspace / f"responses/suites/{TRIAL}-mmau/responses.jsonl"
    before = responses.stat().st_mtime_ns
    rows = (folder / "mmau-test-mini.json").read_text()
    (folder / "mmau-test-mini.json").write_text(rows.replace('"answer": "dog"', '"answer": "bell"'))
    printed = chain_runs.run_chain(workspace)
    assert "1 new or changed" in printed
    assert {stage.split("@")[0] for stage in chain_runs.ran_stages(printed)} == {"suite", "answer_suite", "score_suite", "report"}
    assert all("mmau" in stage for stage in chain_runs.ran_stages(printed) if stage != "report")
    assert responses.stat().st_mtime_ns == before, "DVC skips the stage: its questions are the same"
    log = (workspace / f".scratch/logs/answer_suite@{TRIAL}-mmau.log").read_text()
    assert "didn't change, skipping" in log
    items = (workspace / "suites/mmau/items/items.jsonl").read_text()
    assert '"answer": "bell"' in items


def test_a_missing_folder_stops_the_run_before_it_starts(workspace: Path) -> None:
    folder = workspace.parent / "benchmarks/gtzan"
    folder.rename(folder.with_name("elsewhere"))
    try:
        flow = chain_runs.start_chain(workspace)
        assert flow.wait(chain_runs.HANG_S) == 1
    finally:
        folder.with_name("elsewhere").rename(folder)
    printed = _printed(workspace)
    assert "Traceback" not in printed
    assert chain_runs.ran_stages(printed) == []
    assert "coat: 1 of 16 benchmarks in evaluation.suites cannot be read:" in printed
    assert "gtzan: no such folder" in printed
    assert "fetch it from hub data set marsyas/gtzan" in printed
