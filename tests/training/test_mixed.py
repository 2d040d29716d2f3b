"""Training with acoustic and neural experts together, with subsets of them, and with weights."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from coat_core.errors import TrainingError
from coat_core.experts.store.extraction import extract_features
from coat_core.experts.store.store import ExpertStore
from coat_core.settings import ExpertSettings, Settings
from coat_core.storage import read_json, read_jsonl
from coat_core.training import train as training_run
from tests.testing.tiny_training import World

STEPS = {"ground_steps": 2, "respond_steps": 2, "checkpoint_every": 9, "warmup_steps": 1}


@pytest.fixture(scope="module")
def experts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ExpertSettings]:
    import torch

    from tests.testing import expert_checkpoints

    root = tmp_path_factory.mktemp("checkpoints")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        expert_checkpoints.save_hubert(root / "hubert")
        expert_checkpoints.save_emotion(root / "emotion")
        expert_checkpoints.save_mimi(root / "mimi")

    def neural(implementation: str, name: str) -> ExpertSettings:
        return ExpertSettings(implementation=implementation, checkpoint=str(root / name), accept_licence="MIT", batch_seconds=3.0)

    return {
        "reconstruction": neural("codec", "mimi"),
        "speech": neural("speech_encoder", "hubert"),
        "events": ExpertSettings(implementation="spectral_events"),
        "affect": neural("speech_emotion", "emotion"),
        "pitch": ExpertSettings(implementation="f0_bins"),
    }


@pytest.fixture(scope="module")
def features(world: World, experts: dict[str, ExpertSettings], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("features")
    for key, settings in experts.items():
        extract_features(key, settings, world.examples, world.corpus, folder / key, waveforms=folder / "waveforms")
    return {key: folder / key for key in experts}


def _settings(world: World, experts: dict[str, ExpertSettings], weights: dict[str, float], **training: Any) -> Settings:
    usual = world.settings(training=STEPS | training)
    return usual.model_copy(update={"experts": experts, "losses": usual.losses.model_copy(update={"expert_weights": weights})})


@pytest.mark.parametrize(
    "weights",
    [
        {},
        {"speech": 0.5, "events": 2.0, "pitch": 0.0},
        {"reconstruction": 0.0, "events": 0.0, "affect": 0.0, "pitch": 0.0},
        {"speech": 0.0, "reconstruction": 0.0, "affect": 0.0},
    ],
)
def test_any_subset_of_experts_trains_with_its_weights(
    world: World, experts: dict[str, ExpertSettings], features: dict[str, Path], tmp_path: Path, weights: dict[str, float]
) -> None:
    used = {key: weights.get(key, 1.0) for key in experts if weights.get(key, 1.0) > 0}
    release = world.train(tmp_path, "coat-0", _settings(world, experts, weights), features={key: features[key] for key in used})
    rows = read_jsonl(tmp_path / "run" / "history.jsonl")
    assert len(rows) == 4
    for row, distill, answer in zip(rows, (1.0, 1.0, 0.3, 0.3), (0.5, 0.5, 1.0, 1.0), strict=True):
        assert {name for name in row if name.startswith("loss/")} == {"loss/answer", *(f"loss/{key}" for key in used)}
        parts = sum(weight * row[f"loss/{key}"] for key, weight in used.items())
        assert row["loss"] == pytest.approx(answer * row["loss/answer"] + distill * parts, rel=1e-4)
        assert all(math.isfinite(row[f"loss/{key}"]) and row[f"loss/{key}"] > 0 for key in used)
    info = read_json(release / "coat.json")
    assert set(info["experts"]) == set(used)
    assert {info["experts"][key]["implementation"] for key in used} == {experts[key].implementation for key in used}
    assert {name.split(".")[0] for name in load_file(release / "heads.safetensors")} == set(used)


def test_an_expert_of_weight_0_is_not_opened_and_changes_nothing(
    world: World, experts: dict[str, ExpertSettings], features: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With weight 0 no store is opened and no head is built; the rest is bitwise equal to a run with an idle head or without the expert."""
    kept = ("speech", "pitch")
    weights = {"reconstruction": 0.0, "events": 0.0, "affect": 0.0}
    opened: list[str] = []
    real = ExpertStore.open
    # A clipped gradient norm sums over all tensors, also idle ones, so that its last bit depends on their number.
    unclipped = {"max_gradient_norm": 1e9}
    monkeypatch.setattr(ExpertStore, "open", lambda folder: opened.append(Path(folder).name) or real(folder))
    silent = world.train(tmp_path / "silent", "coat-0", _settings(world, experts, weights, **unclipped), features=features)
    assert sorted(opened) == sorted(kept)
    fewer = {key: experts[key] for key in kept}
    absent = world.train(tmp_path / "absent", "coat-0", _settings(world, fewer, {}, **unclipped), features=features)
    # Every head is built, and the loss of an idle one is multiplied by 0.
    monkeypatch.setattr(training_run, "open_stores", lambda settings, stores: {key: real(stores[key]) for key in sorted(settings.experts)})
    idle = world.train(tmp_path / "idle", "coat-0", _settings(world, experts, weights, **unclipped), features=features)
    assert set(read_json(idle / "coat.json")["experts"]) == set(experts)
    for other in (absent, idle):
        assert (silent / "adapter_model.safetensors").read_bytes() == (other / "adapter_model.safetensors").read_bytes()
        heads, others = load_file(silent / "heads.safetensors"), load_file(other / "heads.safetensors")
        assert heads
        assert all(bool((value == others[name]).all()) for name, value in heads.items())


def test_without_any_expert_arm_coat_is_rejected(world: World, experts: dict[str, ExpertSettings], tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"every expert has the weight 0.*arm block"):
        world.train(tmp_path, "coat-0", _settings(world, experts, dict.fromkeys(experts, 0.0)), features={})
    release: Any = world.train(tmp_path / "block", "block-0", _settings(world, experts, dict.fromkeys(experts, 0.0)), features={})
    assert read_json(release / "coat.json")["experts"] == {}
