from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from coat_core.errors import ExpertError, Interrupted, NonFiniteError, TrainingError
from coat_core.experts.store.store import ExpertStore
from coat_core.storage import read_json, read_jsonl
from coat_core.thinking.model import ThinkingModel
from coat_core.training.trainer import Trainer
from tests.testing.tiny_training import World

ARMS = ("sft", "block", "coat", "coat_shuffled")


class RecordingTracker:
    """Records all calls, and keeps them over several runs as a server does."""

    def __init__(self) -> None:
        self.steps: list[int] = []
        self.statuses: list[str] = []
        self.run_ids: list[str | None] = []
        self.params: dict[str, Any] = {}
        self.inputs: dict[str, str] = {}
        self.metrics: dict[str, float] = {}
        self.releases: list[list[str]] = []
        self.run_id = "run-1"

    @property
    def last_step(self) -> int:
        return max(self.steps, default=0)

    def start(self, name: str, *, tags: Mapping[str, str], run_id: str | None = None) -> None:
        self.name, self.tags = name, dict(tags)
        self.run_ids.append(run_id)

    def log_params(self, params: Mapping[str, Any]) -> None:
        self.params.update(params)

    def log_inputs(self, inputs: Mapping[str, str]) -> None:
        self.inputs.update(inputs)

    def log_metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        self.steps.append(step)
        self.metrics = dict(metrics)

    def log_release(self, folder: Path) -> None:
        self.releases.append(sorted(path.name for path in folder.iterdir()))

    def describe(self) -> dict[str, str]:
        return {"run_id": self.run_id, "experiment": "tests"}

    def finish(self, status: str) -> None:
        self.statuses.append(status)


@pytest.fixture(scope="module")
def seen(world: World, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Train each arm; return its inputs, initial and frozen weights, and its folder."""
    found: dict[str, dict[str, Any]] = {}
    with pytest.MonkeyPatch.context() as patch:
        read, initialise = Trainer._micro_batch, Trainer.__init__
        now: list[dict[str, Any]] = []

        def reading(self: Trainer, *arguments: Any) -> Any:
            micro = read(self, *arguments)
            now[-1]["batches"].append(micro.indices)
            now[-1]["clips"].append([query.key for query in micro.batch.queries])
            now[-1]["targets"].append(micro.targets)
            return micro

        def building(self: Trainer, model: ThinkingModel, *arguments: Any, **more: Any) -> None:
            now[-1]["start"] = model.trainable_state()
            now[-1]["frozen"] = {name: p.detach().clone() for name, p in model.named_parameters() if not p.requires_grad}
            now[-1]["model"] = model
            initialise(self, model, *arguments, **more)

        patch.setattr(Trainer, "_micro_batch", reading)
        patch.setattr(Trainer, "__init__", building)
        for arm in ARMS:
            now.append({"batches": [], "clips": [], "targets": [], "where": tmp_path_factory.mktemp(arm)})
            world.train(now[-1]["where"], f"{arm}-0")
            found[arm] = now[-1]
    return found


def test_arms_share_batches_and_initial_weights(seen: dict[str, dict[str, Any]]) -> None:
    assert len(seen["sft"]["batches"]) == 20
    for arm in ARMS[1:]:
        assert seen[arm]["batches"] == seen["sft"]["batches"]
    for part, arms in (("lora", ARMS), ("trainable_tokens", ARMS[1:]), ("heads", ARMS[2:])):
        first = {name: value for name, value in seen[arms[0]]["start"].items() if part in name}
        assert first
        for arm in arms[1:]:
            own = {name: value for name, value in seen[arm]["start"].items() if part in name}
            assert own.keys() == first.keys()
            assert all(torch.equal(own[name], first[name]) for name in own)


def test_every_trainable_parameter_changes_and_no_other(seen: dict[str, dict[str, Any]]) -> None:
    for arm in ARMS:
        model = seen[arm]["model"]
        assert all(torch.equal(p, seen[arm]["frozen"][name]) for name, p in model.named_parameters() if not p.requires_grad)
        assert all(not torch.equal(value, seen[arm]["start"][name]) for name, value in model.trainable_state().items())


def test_shuffled_targets_are_those_of_another_clip(world: World, seen: dict[str, dict[str, Any]]) -> None:
    store = ExpertStore.open(world.features["reconstruction"])

    def frames(arm: str) -> list[tuple[str, int]]:
        run = seen[arm]
        rows = [zip(clips, t["reconstruction"], strict=True) for clips, t in zip(run["clips"], run["targets"], strict=True)]
        return [(clip, len(target[0])) for row in rows for clip, target in row]

    # No two clips of the tiny corpus have the same length.
    assert all(length == store.frames(clip) for clip, length in frames("coat"))
    assert all(length != store.frames(clip) for clip, length in frames("coat_shuffled"))


def test_records_and_release_of_each_arm(seen: dict[str, dict[str, Any]]) -> None:
    for arm in ARMS:
        rows = read_jsonl(seen[arm]["where"] / "run" / "history.jsonl")
        assert [row["step"] for row in rows] == list(range(1, 11))
        assert [row["stage"] for row in rows] == ["ground"] * 4 + ["respond"] * 6
        assert ("loss/pitch" in rows[0]) == arm.startswith("coat")
        info = read_json(seen[arm]["where"] / "model" / "coat.json")
        assert (info["arm"], info["seed"], info["fingerprint"]) == (arm, 0, "key")
        assert sorted(info["experts"]) == (["pitch", "reconstruction"] if arm.startswith("coat") else [])
    rows = read_jsonl(seen["sft"]["where"] / "run" / "history.jsonl")
    assert rows[-1]["loss/answer"] < 0.9 * rows[0]["loss/answer"]
    assert rows[0]["loss"] == rows[0]["loss/answer"]
    row = read_jsonl(seen["coat"]["where"] / "run" / "history.jsonl")[0]
    assert row["loss"] == pytest.approx(0.5 * row["loss/answer"] + row["loss/pitch"] + row["loss/reconstruction"])


def test_the_same_run_gives_the_same_bytes(world: World, seen: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    world.train(tmp_path, "block-0")
    for path in (tmp_path / "model").iterdir():
        assert path.read_bytes() == (seen["block"]["where"] / "model" / path.name).read_bytes(), path.name


def test_the_base_is_published_untouched(world: World, tmp_path: Path) -> None:
    tracker = RecordingTracker()
    release = world.train(tmp_path, "base-0", tracker=tracker, features={})
    assert not list(release.glob("adapter*"))
    assert read_json(release / "coat.json")["arm"] == "base"
    assert (tmp_path / "run" / "history.jsonl").read_text() == ""
    assert tracker.statuses == ["finished"]


def test_a_finished_run_is_published_again_without_training(world: World, tmp_path: Path) -> None:
    tracker = RecordingTracker()
    world.train(tmp_path, "sft-0", tracker=tracker)
    shutil.rmtree(tmp_path / "model")
    shutil.rmtree(tmp_path / "run")
    world.train(tmp_path, "sft-0", tracker=tracker, corpus=tmp_path / "nowhere")
    assert (tmp_path / "model" / "adapter_model.safetensors").is_file()
    assert read_json(tmp_path / "run" / "run.json") == {"run_id": "run-1", "experiment": "tests"}
    assert tracker.run_ids == [None]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_run_after_the_step_and_no_step_is_tracked_twice(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    tracker, before, step = RecordingTracker(), signal.getsignal(number), Trainer.step

    def signalled(self: Trainer, at: int) -> dict[str, Any]:
        if at == 4 and not tracker.statuses:
            os.kill(os.getpid(), number)
        return step(self, at)

    monkeypatch.setattr(Trainer, "step", signalled)
    with pytest.raises(Interrupted, match="after step 5 of 10") as caught:
        world.train(tmp_path, "coat-0", tracker=tracker)
    assert caught.value.retryable
    assert signal.getsignal(number) == before
    world.train(tmp_path, "coat-0", tracker=tracker)
    assert tracker.steps == list(range(1, 11))
    assert tracker.statuses == ["killed", "finished"]
    assert tracker.run_ids == [None, "run-1"]


def test_steps_repeated_after_a_kill_are_not_logged_again(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tracker, step = RecordingTracker(), Trainer.step

    def dying(self: Trainer, at: int) -> dict[str, Any]:
        if at == 5 and not tracker.statuses:
            raise RuntimeError("power cut")
        return step(self, at)

    monkeypatch.setattr(Trainer, "step", dying)
    with pytest.raises(RuntimeError, match="power cut"):
        world.train(tmp_path, "coat-0", tracker=tracker)
    # The last checkpoint is that of step 3; steps 4 and 5 are repeated.
    world.train(tmp_path, "coat-0", tracker=tracker)
    assert tracker.steps == list(range(1, 11))
    assert [row["step"] for row in read_jsonl(tmp_path / "run" / "history.jsonl")] == list(range(1, 11))
    assert tracker.statuses == ["failed", "finished"]


def test_the_tracker_receives_params_inputs_metrics_and_the_release(world: World, tmp_path: Path) -> None:
    tracker = RecordingTracker()
    world.train(tmp_path, "coat-0", tracker=tracker)
    assert tracker.params["arm"] == "coat"
    assert tracker.params["training.batch_size"] == 2
    assert tracker.params["lora.modules"] == "q_proj,v_proj"
    assert not any(name.startswith(("corpus", "registry")) for name in tracker.params)
    assert set(tracker.inputs) == {"examples", "features/pitch", "features/reconstruction"}
    assert all(len(value) == 64 for value in tracker.inputs.values())
    losses = {"loss", "loss/answer", "loss/pitch", "loss/reconstruction"}
    assert losses | {"learning_rate/lora", "gradient_norm", "examples_per_s", "audio_s_per_s"} <= set(tracker.metrics)
    assert "heads.safetensors" in tracker.releases[0]


@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_a_value_that_is_not_finite_stops_the_run_before_the_optimizer_step(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    forward, steps = Trainer._forward_backward, []
    step = torch.optim.AdamW.step

    def poisoned(self: Trainer, micro: Any, weights: Any, totals: Any, at: int, micro_at: int, *, last: bool) -> torch.Tensor:
        sums = forward(self, micro, weights, totals, at, micro_at, last=last)
        if at == 5:
            if where == "loss":
                return sums * torch.tensor([1.0] + [float("nan")] * (len(sums) - 1), dtype=sums.dtype)
            self.groups["lora"][0].grad[0] = float("inf")
        return sums

    monkeypatch.setattr(Trainer, "_forward_backward", poisoned)
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda self, *a, **k: steps.append(1) or step(self, *a, **k))
    with pytest.raises(NonFiniteError) as caught:
        world.train(tmp_path, "coat-0")
    assert len(steps) == 5
    message = str(caught.value)
    assert "step 6, stage respond" in message
    assert "loss/answer" in message
    assert ("loss/pitch" if where == "loss" else "gradient_norm") in message.split(" not finite")[0]
    assert not (tmp_path / "model").exists()


def test_a_missing_store_or_clip_is_named(world: World, tmp_path: Path) -> None:
    with pytest.raises(ExpertError, match="features@pitch"):
        world.train(tmp_path, "coat-0", features={"reconstruction": world.features["reconstruction"]})
    stranger = world.examples[0].model_copy(update={"sha256": "f" * 64, "id": "stranger"})
    with pytest.raises(ExpertError, match=r"f{64}.*features@pitch"):
        world.train(tmp_path, "coat-0", examples=[*world.examples, stranger])
    world.train(tmp_path / "sft", "sft-0", features={})


def test_features_that_are_not_finite_are_named(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bad, get = world.examples[3].sha256, ExpertStore.get

    def poisoned(self: ExpertStore, clip: str) -> Any:
        features, mask = get(self, clip)
        if clip == bad and self.spec.kind == "reconstruction":
            features = features.copy()
            features[np.flatnonzero(mask)[0], 0] = np.nan
        return features, mask

    monkeypatch.setattr(ExpertStore, "get", poisoned)
    with pytest.raises(ExpertError, match=f"reconstruction are not finite.*{bad}.*features@reconstruction"):
        world.train(tmp_path, "coat-0")


def test_an_unknown_backbone_is_named(world: World, tmp_path: Path) -> None:
    from coat_core.training.tracker import NullTracker
    from coat_core.training.train import train

    with pytest.raises(TrainingError, match="whisper"):
        train(
            world.settings(), "whisper", "sft-0", examples=[], corpus=tmp_path, features={}, target=tmp_path / "m", records=tmp_path / "r",
            scratch=tmp_path / "s", fingerprint="key", tracker=NullTracker(),
        )  # fmt: skip


def test_a_new_tracker_run_receives_the_steps_of_the_lost_one(world: World, tmp_path: Path) -> None:
    from coat_core.training.tracker import History

    lost, new = RecordingTracker(), RecordingTracker()
    first = History(tmp_path / "history.jsonl", lost)
    for step in range(1, 6):
        first.append({"step": step, "stage": "ground", "loss": 1.0})
    with (tmp_path / "history.jsonl").open("a") as stream:
        stream.write('{"step": 6, "lo')
    History(tmp_path / "history.jsonl", new).truncate(3)
    assert new.steps == [1, 2, 3]
    assert [row["step"] for row in read_jsonl(tmp_path / "history.jsonl")] == [1, 2, 3]
    History(tmp_path / "history.jsonl", lost).truncate(3)
    assert lost.steps == [1, 2, 3, 4, 5]
