"""The graph of `dvc.yaml` as data, and how a workspace's graph follows its params."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from coat_core.errors import CoatError, StageError
from coat_core.pipeline import workspace
from coat_core.pipeline.graph import Stage, find_stage, read_graph, stage_key
from coat_core.pipeline.workspace import NEURAL_CODE, graph_for, match_graph
from coat_core.settings import ExpertSettings, parse_settings

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def values() -> dict:
    return yaml.safe_load((ROOT / "params.yaml").read_text())


@pytest.fixture(scope="module")
def graph(values: dict) -> dict[str, Stage]:
    return read_graph(ROOT, values)


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
    assert seen["answer@qwen2_audio-coat-0"] >= {"train@qwen2_audio-coat-0", "contract"}
    assert seen["score@qwen2_audio-coat-0"] == {"answer@qwen2_audio-coat-0", "contract"}
    assert "features@pitch" in seen["train@qwen2_audio-coat-0"]
    for trial in ("base-0", "sft-0", "coat-0"):
        for kind in ("train", "answer"):
            audio = {name for name in seen[f"{kind}@qwen2_audio-{trial}"] if name.startswith("audio@")}
            assert audio == {"audio@qwen2_audio"}, "one store for all trials, and none of another backbone"
    assert seen["audio@qwen2_audio"] == {"contract"}
    assert all("audio@qwen2_audio" not in found for name, found in seen.items() if name.startswith(("score@", "latency@", "features@")))


def test_the_store_of_a_backbone_depends_on_its_base_its_params_and_the_manifest(graph: dict[str, Stage]) -> None:
    stage = graph["audio@qwen2_5_omni"]
    assert stage.inputs == ("data/accepted.jsonl", "bases/qwen2_5_omni")
    assert stage.params == ("runtime", "backbones.qwen2_5_omni")
    assert stage.outs == ("audio/qwen2_5_omni",)
    assert stage.command.endswith("coat audio qwen2_5_omni")


def experts(*keys: str, **neural: str) -> dict[str, ExpertSettings]:
    """Acoustic experts by key, and neural ones by key and implementation."""
    return {
        **{key: ExpertSettings(implementation="log_mel") for key in keys},
        **{key: ExpertSettings(implementation=name) for key, name in neural.items()},
    }


def test_a_workspace_trains_on_the_experts_of_its_params(values: dict) -> None:
    text = (ROOT / "dvc.yaml").read_text()
    assert graph_for(text, parse_settings(values).experts) == text, "the default graph is that of the default params"
    graph = yaml.safe_load(graph_for(text, experts("pitch", "speech_hubert")))
    stores = [dep for dep in graph["stages"]["train"]["deps"] if dep.startswith("features/")]
    assert stores == ["features/pitch", "features/speech_hubert"]
    assert yaml.safe_load(text)["stages"].keys() == graph["stages"].keys()


def test_neural_experts_add_their_code_to_the_features_and_nowhere_else() -> None:
    text = (ROOT / "dvc.yaml").read_text()
    neural = graph_for(text, experts("pitch", speech="speech_encoder"))
    before, after = (yaml.safe_load(graph)["stages"] for graph in (text, neural))
    assert set(after["features"]["do"]["deps"]) - set(before["features"]["do"]["deps"]) == set(NEURAL_CODE)
    assert {name: stage for name, stage in after.items() if name not in ("features", "train", "probe")} == {
        name: stage for name, stage in before.items() if name not in ("features", "train", "probe")
    }
    for name in ("train", "probe"):
        assert set(after[name]["deps"]) <= set(before[name]["deps"])
    assert graph_for(neural, experts("pitch", "speech")) == graph_for(text, experts("pitch", "speech"))


def test_an_expert_is_left_out_by_one_line_of_a_workspaces_params(values: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text, default = (ROOT / "dvc.yaml").read_text(), parse_settings(values).experts
    others = {key: expert for key, expert in default.items() if key != "affect"}
    (tmp_path / "dvc.yaml").write_text(text)
    match_graph(tmp_path, dict(reversed(default.items())))
    assert (tmp_path / "dvc.yaml").read_text() == text, "the order of params is nothing to DVC"
    match_graph(tmp_path, others)
    assert (tmp_path / "dvc.yaml").read_text() == graph_for(text, others) != text
    monkeypatch.setattr(workspace, "repository_root", lambda: tmp_path)
    with pytest.raises(StageError, match=r"train depends on other stores.*coat workspace \. --params params\.yaml"):
        match_graph(tmp_path, experts("pitch"))
    with pytest.raises(StageError, match=r"another kind of experts.*neural_pitch.*coat workspace DIR"):
        match_graph(tmp_path, {**others, "pitch": ExpertSettings(implementation="neural_pitch")})
    assert (tmp_path / "dvc.yaml").read_text() == graph_for(text, others)


def test_a_graph_that_was_changed_by_hand_is_rewritten_where_it_can_be(values: dict, tmp_path: Path) -> None:
    text, default = (ROOT / "dvc.yaml").read_text(), parse_settings(values).experts
    own = text + "\n  mine:\n    cmd: exec true\n    deps:\n      - features/speech\n"
    (tmp_path / "dvc.yaml").write_text(own)
    match_graph(tmp_path, experts("pitch"))
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
        match_graph(tmp_path, default)
        assert (tmp_path / "dvc.yaml").read_text() == commented, "it names them all: nothing to write"
    with pytest.raises(CoatError, match=r"changed by hand.*one a line and together"):
        match_graph(tmp_path, experts("pitch"))
    assert (tmp_path / "dvc.yaml").read_text() == commented
