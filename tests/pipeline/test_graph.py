"""The graph declares what the stages use: no more, no less."""

from __future__ import annotations

import ast
from pathlib import Path

import grimp
import pytest
import yaml

from coat_core.errors import CoatError, StageError
from coat_core.pipeline import stages, workspace
from coat_core.pipeline.graph import Stage, find_stage, read_graph, stage_key
from coat_core.pipeline.workspace import graph_for, match_graph
from coat_core.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
KINDS = {
    "corpus": "corpus",
    "contract": "contract",
    "features@pitch": "features",
    "train@qwen2_audio-coat-0": "train",
    "evaluate@qwen2_audio-coat-0": "evaluate",
    "latency@qwen2_audio": "latency",
    "report": "report",
}
RECORDS_ONLY = ("coat_core.registry",)
"""MLflow is written to by stages, but changes nothing of what they put out."""
RUNNER_ONLY = {"coat_core.pipeline.graph", "coat_core.watchdog", "coat_core.storage", "coat_core.errors", "coat_core.settings"}


@pytest.fixture(scope="module")
def values() -> dict:
    return yaml.safe_load((ROOT / "params.yaml").read_text())


@pytest.fixture(scope="module")
def graph(values: dict) -> dict[str, Stage]:
    return read_graph(ROOT, values)


@pytest.fixture(scope="module")
def imports() -> grimp.ImportGraph:
    return grimp.build_graph("coat_core", cache_dir=None)


def _function(kind: str) -> ast.FunctionDef:
    tree = ast.parse(Path(stages.__file__).read_text())
    return next(node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == kind)


def _imported(node: ast.AST) -> set[str]:
    return {child.module for child in ast.walk(node) if isinstance(child, ast.ImportFrom) and child.module}


def _settings_read(source: str) -> set[str]:
    """Top-level sections read as `settings.<section>` or `run.settings.<section>`."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and node.attr in Settings.model_fields:
            owner = node.value
            if (isinstance(owner, ast.Name) and owner.id == "settings") or (isinstance(owner, ast.Attribute) and owner.attr == "settings"):
                found.add(node.attr)
    return found


@pytest.mark.parametrize("name", KINDS)
def test_declared_code_is_imported_code(name: str, graph: dict[str, Stage], imports: grimp.ImportGraph) -> None:
    stage = graph[name]
    used: set[str] = set()
    for module in {
        *_imported(_function(KINDS[name])),
        *({"coat_core.corpus.examples"} if "_examples" in ast.dump(_function(KINDS[name])) else set()),
    }:
        if not module.startswith("coat_core.") or module.startswith(RECORDS_ONLY):
            continue
        used |= {module, *imports.find_upstream_modules(module)}
    used = {module for module in used if module.count(".") >= 1 and not module.startswith(RECORDS_ONLY)}
    files = {module.replace(".", "/") for module in used if (ROOT / (module.replace(".", "/") + ".py")).exists()}
    uncovered = {file for file in files if not any(file == dep.removesuffix(".py") or file.startswith(dep + "/") for dep in stage.code)}
    assert not uncovered, f"{name} imports code that dvc.yaml does not declare"
    idle = {dep for dep in stage.code if not any(file == dep.removesuffix(".py") or file.startswith(dep + "/") for file in files)}
    assert not idle - {"coat_core/settings", "coat_core/errors.py", "coat_core/storage.py"}, f"{name} declares code that it does not import"


@pytest.mark.parametrize("name", KINDS)
def test_declared_params_are_read_params(name: str, graph: dict[str, Stage]) -> None:
    kind = KINDS[name]
    sources = [ast.unparse(_function(kind))]
    for module in _imported(_function(kind)):
        path = ROOT / (module.replace(".", "/") + ".py")
        text = path.read_text()
        if "settings: Settings" in text:
            sources.append(text)
    used = set().union(*map(_settings_read, sources))
    assert used <= graph[name].sections | {"runtime"}
    assert graph[name].sections - {"runtime"} <= used


def test_key_changes_with_each_part(tmp_path: Path) -> None:
    stage = Stage("x", "", ("coat_core/a", "data/in"), ("lora",), ("out",))
    (tmp_path / "coat_core/a").mkdir(parents=True)
    (tmp_path / "data").mkdir()
    (tmp_path / "coat_core/a/m.py").write_text("1")
    (tmp_path / "data/in").write_text("1")
    keys = [stage_key(stage, tmp_path, {"lora": 1})]
    assert keys[0] == stage_key(stage, tmp_path, {"lora": 1, "other": 2})
    keys.append(stage_key(stage, tmp_path, {"lora": 2}))
    (tmp_path / "data/in").write_text("2")
    keys.append(stage_key(stage, tmp_path, {"lora": 1}))
    (tmp_path / "coat_core/a/m.py").write_text("2")
    keys.append(stage_key(stage, tmp_path, {"lora": 1}))
    assert len(set(keys)) == 4


def test_missing_input_is_named(tmp_path: Path) -> None:
    with pytest.raises(StageError, match="data/in"):
        stage_key(Stage("x", "", ("data/in",), (), ()), tmp_path, {})


def test_unknown_stage_lists_the_known(values: dict) -> None:
    with pytest.raises(StageError, match="train@qwen2_audio-coat-0"):
        find_stage("train@qwen2_audio-coat-9", ROOT, values)


def test_dvc_sees_the_same_stages(graph: dict[str, Stage]) -> None:
    from flows.dvc import read_graph as dvc_graph

    seen = dvc_graph(ROOT)
    assert set(seen) == set(graph)
    assert seen["evaluate@qwen2_audio-coat-0"] >= {"train@qwen2_audio-coat-0", "contract"}
    assert "features@pitch" in seen["train@qwen2_audio-coat-0"]


def test_a_workspace_trains_on_the_experts_of_its_params(values: dict) -> None:
    text = (ROOT / "dvc.yaml").read_text()
    assert graph_for(text, list(values["experts"])) == text, "the default graph is that of the default params"
    graph = yaml.safe_load(graph_for(text, ["pitch", "speech_hubert"]))
    stores = [dep for dep in graph["stages"]["train"]["deps"] if dep.startswith("features/")]
    assert stores == ["features/pitch", "features/speech_hubert"]
    assert yaml.safe_load(text)["stages"].keys() == graph["stages"].keys()


def test_an_expert_is_left_out_by_one_line_of_a_workspaces_params(values: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text, others = (ROOT / "dvc.yaml").read_text(), [key for key in values["experts"] if key != "affect"]
    (tmp_path / "dvc.yaml").write_text(text)
    match_graph(tmp_path, list(reversed(values["experts"])))
    assert (tmp_path / "dvc.yaml").read_text() == text, "the order of params is nothing to DVC"
    match_graph(tmp_path, others)
    assert (tmp_path / "dvc.yaml").read_text() == graph_for(text, others) != text
    monkeypatch.setattr(workspace, "repository_root", lambda: tmp_path)
    with pytest.raises(StageError, match=r"train waits for other stores.*coat workspace \. --params params\.yaml"):
        match_graph(tmp_path, ["pitch"])
    assert (tmp_path / "dvc.yaml").read_text() == graph_for(text, others)


def test_a_graph_that_was_changed_by_hand_is_rewritten_where_it_can_be(values: dict, tmp_path: Path) -> None:
    text, experts = (ROOT / "dvc.yaml").read_text(), list(values["experts"])
    own = text + "\n  mine:\n    cmd: exec true\n    deps:\n      - features/speech\n"
    (tmp_path / "dvc.yaml").write_text(own)
    match_graph(tmp_path, ["pitch"])
    graph = yaml.safe_load((tmp_path / "dvc.yaml").read_text())
    assert [dep for dep in graph["stages"]["train"]["deps"] if dep.startswith("features/")] == ["features/pitch"]
    assert graph["stages"]["mine"]["deps"] == ["features/speech"]
    for line, instead in (
        ("- features/events\n", "- features/events  # mine\n"),
        ("      - features/events\n", "      # and\n      - features/events\n"),
    ):
        commented = text.replace(line, instead)
        assert commented != text
        (tmp_path / "dvc.yaml").write_text(commented)
        match_graph(tmp_path, experts)
        assert (tmp_path / "dvc.yaml").read_text() == commented, "it names them all: nothing to write"
    with pytest.raises(CoatError, match=r"changed by hand.*one a line and together"):
        match_graph(tmp_path, ["pitch"])
    assert (tmp_path / "dvc.yaml").read_text() == commented
