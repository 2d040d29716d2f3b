"""`coat benchmark MODEL`: a registered version, its release and its exports give the same responses; a stopped call goes on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from coat_core.backbones.base import Query
from coat_core.benchmark import Asking, benchmark_model
from coat_core.cli import app
from coat_core.errors import CoatError, EvaluationError
from coat_core.evaluation.benchmarks import answers
from coat_core.evaluation.benchmarks.prepared import SuiteChoice
from coat_core.export.export import export
from coat_core.storage import read_json, read_jsonl
from tests.registry.conftest import NAME
from tests.testing.benchmark_miniatures import write_miniature
from tests.testing.served import TRIAL, Served

ASKING = Asking(max_new_tokens=6, batch_size=2)


def _responses(folder: Path) -> list[dict[str, Any]]:
    return read_jsonl(folder / "responses/responses.jsonl")


@pytest.mark.slow
def test_a_version_its_release_and_its_exports_answer_alike(served: Served, tmp_path: Path) -> None:
    choice = SuiteChoice(str(write_miniature("mmau", tmp_path / "data")))
    release = served.workspace / "models" / TRIAL
    models = {"version": f"{NAME}@champion", "release": str(release)}
    for name, merge in (("merged", True), ("adapter", False)):
        models[name] = str(export(str(release), tmp_path / name, merge=merge, dtype="float32", progress=lambda line: None).folder)
    for name, model in models.items():
        result = benchmark_model(model, "mmau", choice, ASKING, tmp_path / "out" / name)
        assert len(result.rows) == 3
        assert _responses(tmp_path / "out" / name) == _responses(tmp_path / "out/version"), name
    records = {name: read_json(tmp_path / "out" / name / "responses/record.json") for name in models}
    assert len({record["fingerprint"] for record in records.values()}) == 1
    assert records["version"]["version"] == "1"
    assert (records["merged"]["export"], records["adapter"]["export"]) == ("merged", "adapter")
    assert {record["model"] for record in records.values()} == set(models.values())
    assert read_json(tmp_path / "out/version/result/result.json")["record"]["decoding"] == {"method": "greedy", "batch_size": 2}
    # Another model or other settings must not go on with these responses.
    with pytest.raises(EvaluationError, match="responses of another model"):
        benchmark_model(models["release"], "mmau", choice, Asking(max_new_tokens=3), tmp_path / "out/release")


def test_a_stopped_call_goes_on(served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = write_miniature("gtzan", tmp_path / "data")
    release, out = str(served.workspace / "models" / TRIAL), tmp_path / "out"
    whole = answers.Answerer.answer
    calls: list[int] = []

    def stop(model: answers.Answerer, queries: Sequence[Query], max_new_tokens: int) -> list[dict[str, Any]]:
        calls.append(len(queries))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return whole(model, queries, max_new_tokens)

    monkeypatch.setattr(answers.Answerer, "answer", stop)
    arguments = ["benchmark", release, "--suite", "gtzan", "--data", str(data), "--out", str(out), "--batch", "1", "--max-new-tokens", "4"]
    stopped = CliRunner().invoke(app, arguments)
    assert stopped.exit_code == 130
    assert not (out / "responses").exists()
    done = CliRunner().invoke(app, [*arguments, "--json", str(tmp_path / "result.json")], catch_exceptions=False)
    assert (done.exit_code, calls) == (0, [1, 1, 1, 1])
    assert "GTZAN genres, fault-filtered-test" in done.output
    assert [item["id"] for item in read_json(tmp_path / "result.json")["items"]] == ["hiphop.00000", "pop.00000", "rock.00010"]


def test_no_such_model(workspace: Path, tmp_path: Path) -> None:
    choice = SuiteChoice(str(write_miniature("gtzan", tmp_path / "data")))
    with pytest.raises(CoatError, match="there is no such model"):
        benchmark_model("models/absent", "gtzan", choice, ASKING, tmp_path / "out")
