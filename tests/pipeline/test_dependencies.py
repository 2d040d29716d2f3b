"""`dvc.yaml` declares for each stage exactly the code that it imports and the params that it reads; nothing else makes it run again."""

from __future__ import annotations

import ast
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grimp
import pytest
import yaml

from coat_core.pipeline.graph import Stage, read_graph
from coat_core.pipeline.workspace import graph_for, make_workspace
from coat_core.settings import Settings, parse_settings
from tests.testing.import_closure import ROOT, closure, cover, declared, import_graph, stage_kinds

READ_ELSEWHERE = {"runtime"}
"""Sections that stages read without being changed by them: threads of an extraction, the device of a report."""


@pytest.fixture(scope="module")
def params() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "params.yaml").read_text())


@pytest.fixture(scope="module")
def imports() -> grimp.ImportGraph:
    return import_graph()


@pytest.fixture(scope="module")
def graph(params: dict[str, Any]) -> dict[str, Stage]:
    """One stage of each kind. By default, no trial is described, and there are no public benchmarks."""
    evaluation = {**params["evaluation"], "suites": {"mmau": {"data": "mmau"}}}
    values = {**params, "latency": {**params["latency"], "described": ["coat-0"]}, "evaluation": evaluation}
    return {stage.kind: stage for stage in read_graph(ROOT, values).values()}


def test_every_stage_has_a_module(graph: dict[str, Stage]) -> None:
    assert sorted(graph) == stage_kinds()


@pytest.mark.parametrize("kind", stage_kinds())
def test_declared_code_is_imported_code(kind: str, graph: dict[str, Stage], params: dict[str, Any], imports: grimp.ImportGraph) -> None:
    imported, listed = closure(kind, params, imports), declared(graph[kind].code)
    assert not imported - listed, f"{kind} imports files that dvc.yaml does not declare: run `make graph`"
    unused = listed - imported
    if kind == "features":  # the folder of the acoustic experts is declared whole: which of them a stage loads, params say
        unused = {file for file in unused if not file.startswith("coat_core/experts/acoustic/")}
    assert not unused, f"{kind} declares files that it does not import: run `make graph`"
    assert kind == "features" or list(graph[kind].code) == cover(imported), "the shortest list, as `make graph` writes it"


def test_neural_features_declare_what_they_import(tmp_path: Path, params: dict[str, Any], imports: grimp.ImportGraph) -> None:
    from coat_core.experts.catalogue import NEURAL

    values = {**params, "experts": {name: {"implementation": name} for name in NEURAL}}
    experts = parse_settings({**values, "losses": {**params["losses"], "expert_weights": {}}}).experts
    (tmp_path / "dvc.yaml").write_text(graph_for((ROOT / "dvc.yaml").read_text(), experts))
    stage = next(stage for stage in read_graph(tmp_path, values).values() if stage.kind == "features")
    assert not closure("features", values, imports) - declared(stage.code)


def _settings_read(source: str, name: str, fields: set[str]) -> set[str]:
    """Fields that a source reads as `<name>.<field>` or `….<name>.<field>`."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and node.attr in fields:
            owner = node.value
            if name in (getattr(owner, "id", None), getattr(owner, "attr", None)):
                found.add(node.attr)
    return found


@pytest.mark.parametrize("kind", stage_kinds())
def test_declared_params_are_read_params(kind: str, graph: dict[str, Stage]) -> None:
    sources = [(ROOT / f"coat_core/pipeline/stages/{kind}.py").read_text()]
    seen: set[Path] = set()
    for source in sources:
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.ImportFrom) and node.module:
                path = ROOT / (node.module.replace(".", "/") + ".py")
                if path.exists() and path not in seen and "settings: Settings" in path.read_text():
                    seen.add(path)
                    sources.append(path.read_text())
    used = set().union(*(_settings_read(source, "settings", set(Settings.model_fields)) for source in sources))
    assert used <= graph[kind].sections | READ_ELSEWHERE
    assert graph[kind].sections - READ_ELSEWHERE <= used


@pytest.mark.parametrize("kind", ["answer", "score"])
def test_answers_and_scores_declare_single_fields(
    kind: str, graph: dict[str, Stage], params: dict[str, Any], imports: grimp.ImportGraph
) -> None:
    fields = set(params["evaluation"])
    sources = [(ROOT / file).read_text() for file in closure(kind, params, imports) if file.startswith("coat_core/evaluation/")]
    used = set().union(*(_settings_read(source, "settings", fields) for source in sources))
    assert {f"evaluation.{field}" for field in used} == {path for path in graph[kind].params if path.startswith("evaluation.")}


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with a copy of the code, in which DVC has recorded every stage as done (the outputs are stand-ins)."""
    place = make_workspace(tmp_path_factory.mktemp("recorded") / "workspace", ROOT / "params/tiny.yaml")
    for name in ("coat_core", "bases"):
        (place / name).unlink()
    shutil.copytree(ROOT / "coat_core", place / "coat_core", ignore=shutil.ignore_patterns("__pycache__"))
    for key in ("qwen2_audio",):
        (place / "bases" / key).mkdir(parents=True)
        (place / "bases" / key / "config.json").write_text("{}")
    for stage in read_graph(place, yaml.safe_load((place / "params.yaml").read_text())).values():
        for out in stage.outs:
            target = place / out
            target.parent.mkdir(parents=True, exist_ok=True)
            if not target.exists():
                target.write_text(stage.name)
    _dvc(place, "config", "--local", "cache.dir", str(place.parent / "cache"))
    _dvc(place, "commit", "--force")
    assert _stale(place) == set()
    return place


def _dvc(place: Path, *arguments: str) -> str:
    command = [str(Path(sys.executable).parent / "dvc"), *arguments]
    done = subprocess.run(command, cwd=place, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def _stale(place: Path) -> set[str]:
    """Kinds of the stages that would run again."""
    return {name.split("@")[0] for name in json.loads(_dvc(place, "status", "--json"))}


def _comment(text: str) -> str:
    return text + "\n# another comment\n"


def _docstring(text: str) -> str:
    return text.replace('"""', '"""Changed. ', 1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "change", "expected"),
    [
        pytest.param("report/charts.py", _comment, {"report"}, id="a chart"),
        pytest.param("evaluation/scorers.py", _comment, {"score", "report"}, id="a scorer"),
        pytest.param("evaluation/statistics.py", _comment, {"score", "report"}, id="a statistic"),
        pytest.param("experts/neural/codec.py", _docstring, set(), id="the docstring of an expert that params do not name"),
        pytest.param("report/report.html.j2", _comment, {"report"}, id="a page"),
        pytest.param("corpus/contract/page.html.j2", _comment, {"contract"}, id="the page of the contract"),
        pytest.param("sizing/advice.py", _comment, set(), id="advice about memory"),
        pytest.param("registry/card.py", _comment, set(), id="the model card"),
        pytest.param("evaluation/latency.py", _comment, {"latency"}, id="the measurement of latency"),
        pytest.param("experts/acoustic/log_mel.py", _comment, {"features"}, id="an expert that params name"),
        pytest.param("evaluation/generate.py", _comment, {"answer", "latency"}, id="the generation of answers"),
        pytest.param("audio_store/extraction.py", _comment, {"audio"}, id="the extraction of audio embeddings"),
        pytest.param("thinking/losses.py", _comment, {"train", "answer", "latency", "report"}, id="a loss"),
    ],
)
def test_a_change_runs_only_what_depends_on_it(recorded: Path, file: str, change: Callable[[str], str], expected: set[str]) -> None:
    path = recorded / "coat_core" / file
    before = path.read_text()
    path.write_text(change(before))
    try:
        assert _stale(recorded) == expected
    finally:
        path.write_text(before)
    assert _stale(recorded) == set()
