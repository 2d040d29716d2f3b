"""The command `coat benchmark`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from coat_core.cli import app
from coat_core.errors import EvaluationError
from coat_core.evaluation.benchmarks.catalogue import SUITES

GENRES = ["hiphop.00000", "pop.00000", "rock.00010"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "gtzan_fault_filtered_split.json").write_text(json.dumps({"splits": {"test": GENRES, "valid": ["jazz.00001"]}}))
    rows = [{"id": "hiphop.00000", "response": "hiphop"}, {"id": "pop.00000", "response": "popular music"}]
    (tmp_path / "responses.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "alpaca_audio_test.jsonl").write_text(json.dumps({"instruction": "Name a colour.", "answer": "Red."}))
    return tmp_path


def _run(*arguments: object) -> str:
    result = CliRunner().invoke(app, ["benchmark", *map(str, arguments)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def _of(suite: str, *arguments: object) -> str:
    return _run("--suite", suite, *arguments)


def test_the_list_has_every_suite() -> None:
    for arguments in (["list"], []):
        assert [line.split()[0] for line in _run(*arguments).splitlines()] == list(SUITES)


def test_both_readings_are_printed_and_written(folder: Path) -> None:
    text = _of("gtzan", "--data", folder, "--responses", folder / "responses.jsonl", "--json", folder / "out.json")
    assert "GTZAN genres, fault-filtered-test" in text
    assert "no number: 1 items have no verdict" in text
    written = json.loads((folder / "out.json").read_text())
    assert written["official"]["value"] is None
    assert written["official"]["left_out"] == {"missing": 1, "needs_model": 1}
    assert written["strict"]["value"] == pytest.approx(1 / 3, abs=1e-6)
    assert written["strict"]["unscored"] == 2
    assert written["harnesses"]["ultraeval_prefix"]["value"] == 1.0
    assert written["differing"]["share"] == pytest.approx(2 / 3, abs=1e-6)
    assert [item["id"] for item in written["items"]] == sorted(GENRES)
    assert set(written["groups"]["genre"]) == {"hiphop", "pop", "rock"}


def test_prompts_are_written(folder: Path) -> None:
    assert "1 prompts" in _of("gtzan", "--data", folder, "--split", "fault-filtered-valid", "--prompts", folder / "prompts.jsonl")
    row = json.loads((folder / "prompts.jsonl").read_text())
    assert (row["id"], row["audio"]) == ("jazz.00001", "genres/jazz/jazz.00001.wav")
    assert "blues, classical" in row["prompt"]


def test_a_stand_in_judges_open_answers(folder: Path) -> None:
    (folder / "open.jsonl").write_text(json.dumps({"id": "0", "response": "red"}))
    options = ["--accept-licence", "--judge", "stand-in", "--judge-cache", folder / "kept"]
    text = _of("alpaca_audio", "--data", folder, "--responses", folder / "open.jsonl", *options)
    assert "stand-in: F1 of words" in text
    assert len(list((folder / "kept").glob("*.json"))) == 1


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"id": "x", "response": "a"}], "belong to no item"),
        ([{"response": "a"}], "the layout of the responses is not known"),
        ([{"id": "pop.00000", "response": "a"}, {"response": "a"}], "row 2 has no id"),
        ([{"id": "pop.00000", "response": 3}], "has no text"),
        ([{"id": "pop.00000", "response": "a"}, {"id": "pop.00000", "response": "b"}], "repeats an id"),
    ],
)
def test_mistakes_in_responses(folder: Path, rows: list[dict[str, object]], message: str) -> None:
    (folder / "bad.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(EvaluationError, match=message):
        _of("gtzan", "--data", folder, "--responses", folder / "bad.jsonl")


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["--responses", "a", "--prompts", "b"],
        ["--responses", "responses.jsonl", "--by", "task"],
        ["--responses", "a", "--judge", "http://x"],
        ["--responses", "a", "--judge", "local"],
        ["--responses", "a", "--judge", "gpt", "--judge-model", "m"],
        ["--responses", "a", "--judge", "stand-in", "--judge-revision", "0" * 40],
        ["models/a"],
        ["models/a", "--responses", "a"],
    ],
)
def test_mistakes_in_options(folder: Path, options: list[str]) -> None:
    result = CliRunner().invoke(app, ["benchmark", "--suite", "gtzan", "--data", str(folder), *options])
    assert result.exit_code == 2


def test_a_benchmark_is_named_by_its_option() -> None:
    result = CliRunner().invoke(app, ["benchmark", "gtzan"])
    assert result.exit_code == 2
    assert "--suite" in result.output


def test_the_log_of_another_harness_is_scored_again(folder: Path) -> None:
    rows = [
        {
            "index": 0,
            "audio_path": "/x/hiphop.00000.wav",
            "question": "Genre?",
            "answer": "hiphop",
            "prediction": "Hip-hop",
            "judge_result": "yes",
        },
        {"index": 1, "audio_path": "/x/jazz.00001.wav", "question": "Genre?", "answer": "jazz", "prediction": "jazz", "judge_result": "no"},
    ]
    (folder / "log.jsonl").write_text("\n".join(map(json.dumps, rows)))
    text = _of("gtzan", "--data", folder, "--responses", folder / "log.jsonl", "--json", folder / "out.json")
    assert "2 rows of kimi" in text
    assert "1 rows of no item: jazz.00001" in text
    assert "2 items without a response: pop.00000, rock.00010" in text
    written = json.loads((folder / "out.json").read_text())
    assert written["log"]["matched"] == {"clip": 1}
    assert written["log"]["harness"]["value"] == 1.0
    with pytest.raises(EvaluationError, match="no such layout"):
        _of("gtzan", "--data", folder, "--responses", folder / "log.jsonl", "--format", "helm")
