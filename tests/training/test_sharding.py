"""`training.strategy: fsdp`: with a base sharded over two processes, a step is that of one process, and each holds half the base."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from coat_core.backbones.catalogue import load_backbone
from coat_core.errors import TrainingError
from coat_core.settings import find_arm
from coat_core.storage import read_json, read_jsonl
from coat_core.thinking.sharding import gathered, shard_base
from coat_core.tiny_bases.config import save_random_base
from coat_core.training.build import TrainingRun, build
from coat_core.training.train import _accelerator
from tests.conftest import BACKBONE_KEYS
from tests.testing.ranks import run_ranks
from tests.testing.tiny_training import KEY, TEXTS, World, assert_same_step, one_step

BATCHES = [[0, 5, 7], [2, 9]]
FSDP = {"processes": 2, "strategy": "fsdp", "accumulation": 1}
CASES: dict[str, dict[str, Any]] = {
    "no option": {},
    "no valid frame on one rank": {"masked": BATCHES[1]},
    "3 forwards on one rank and 2 on the other, one of each without an answer": {"batch_seconds": 1.2, "unlabelled": [7, 9]},
    "no answer on one rank": {"unlabelled": BATCHES[1]},
    "recomputed activations, a bottleneck": {"gradient_checkpointing": True, "bottleneck": 1.0},
}
STEPS = {"ground_steps": 2, "respond_steps": 4, "batch_size": 3, "warmup_steps": 2, "checkpoint_every": 2, "length_groups": 2}
EVERYTHING: dict[str, Any] = {
    "thinking": {"tokens": 4, "warm_start_steps": 2},
    "lora": {"dropout": 0.2, "modules": ["q_proj", "v_proj", "gate_proj"]},
    "heads": {"dropout": 0.2},
    "losses": {"max_share": 0.02, "audio_share": 0.5},
    "training": {**STEPS, "processes": 2, "strategy": "fsdp", "accumulation": 2, "batch_seconds": 2.0, "gradient_checkpointing": True,
                 "bottleneck": 0.8},
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("key", BACKBONE_KEYS)
def test_a_step_of_two_processes_equals_that_of_one(world: World, tmp_path: Path, key: str) -> None:
    if key != KEY:
        save_random_base(key, world.folder / f"base-{key}", texts=TEXTS * 20)
    cases = [{"batches": BATCHES, "key": key, **case} for case in (CASES.values() if key == KEY else [CASES["no option"]])]
    first, second = run_ranks("steps", tmp_path, folder=world.folder, cases=[{**case, **FSDP} for case in cases])
    for case, (gradients, row, held), (other, _, held_there) in zip(cases, first, second, strict=True):
        assert all(torch.equal(gradients[name], other[name]) for name in gradients)
        whole = {**case, "batches": [BATCHES[0] + BATCHES[1]], "accumulation": 1, "batch_seconds": None}
        assert_same_step((gradients, row), one_step(world.folder, world.examples, tmp_path, **whole))
        assert held["local"] + held_there["local"] == held["whole"]
        assert abs(held["local"] / held["whole"] - 0.5) < 0.01
        # Besides the audio tower, only the final norm is whole in every process.
        assert 0 < held["other"] < 0.001 * held["whole"]
        # No copy of the whole base is left: 4 B for each number, gradients and two moments of what is trained, and the inputs.
        kept = 4 * (held["local"] + held["tower"] + held["other"] + 4 * held["trained"])
        assert held["live"] - held["before"] < kept + 0.5 * 4 * held["local"]


@pytest.mark.slow
def test_a_training_of_two_processes_equals_that_of_one(world: World, tmp_path: Path) -> None:
    """Two batches a step, in turn or side by side: the same examples in every step."""
    where = {name: tmp_path / name for name in ("one", "two")}
    where["two"].mkdir()
    world.train(where["one"], "coat-0", world.settings(training={**STEPS, "accumulation": 2}))
    run_ranks("training", where["two"], folder=world.folder, trial="coat-0", training={**STEPS, **FSDP})
    for name in ("adapter_model.safetensors", "heads.safetensors"):
        one, two = (load_file(folder / "model" / name) for folder in where.values())
        assert one.keys() == two.keys()
        for key in one:
            torch.testing.assert_close(one[key], two[key], rtol=1e-3, atol=2e-5, msg=lambda text, key=key: f"{key}: {text}")
    one, two = ({path.name: path for path in (folder / "model").iterdir()} for folder in where.values())
    assert one.keys() == two.keys()
    assert all(one[name].read_bytes() == two[name].read_bytes() for name in one if name.endswith((".jinja", "config.json")))
    losses = [[row["loss"] for row in read_jsonl(folder / "run/history.jsonl")] for folder in where.values()]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


@pytest.mark.slow
def test_an_interrupted_training_ends_bitwise_equal_to_an_uninterrupted_one(world: World, tmp_path: Path) -> None:
    """With every option that adds a forward, a backward or a random draw; the second rank's folder has no checkpoint."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    whole.mkdir()
    forwards = run_ranks("training", whole, folder=world.folder, trial="coat-0", **EVERYTHING)
    assert forwards[0] != forwards[1], "no rank had to wait with an empty forward"
    parts.mkdir()
    with pytest.raises(AssertionError, match="killed in step 5"):
        run_ranks("training", parts, folder=world.folder, trial="coat-0", kill=[1, 5], **EVERYTHING)
    assert not (parts / "model").exists()
    assert read_json(max((parts / "scratch/checkpoints").glob("*.json")))["step"] == 4
    resumed = run_ranks("training", parts, folder=world.folder, trial="coat-0", alone=[1], **EVERYTHING)
    assert [len(steps) for steps in resumed] == [2, 2]
    for name in ("adapter_model.safetensors", "heads.safetensors"):
        assert (parts / "model" / name).read_bytes() == (whole / "model" / name).read_bytes()
    times = {"seconds": 0, "examples_per_s": 0, "audio_s_per_s": 0}
    rows = [[{**row, **times} for row in read_jsonl(folder / "run/history.jsonl")] for folder in (whole, parts)]
    assert rows[0] == rows[1]
    assert rows[0][5]["distill_share"] == pytest.approx(0.02)


def test_a_quantised_base_is_refused(world: World, tmp_path: Path) -> None:
    _, model = build(TrainingRun(world.settings(), KEY, find_arm("sft"), 0, tmp_path, "key"), {}, "cpu")
    assert model is not None
    linear: Any = model.backbone.layers[0].mlp.down_proj
    linear.weight = nn.Parameter(linear.weight.detach().to(torch.int8), requires_grad=False)
    with pytest.raises(TrainingError, match=r"quantised base.*training\.strategy.*down_proj.*: torch\.int8.*allowed: single, ddp"):
        shard_base(model, torch.device("cpu"), 2)


def test_an_embedding_that_is_also_the_output_layer_is_refused(world: World, tmp_path: Path) -> None:
    _, model = build(TrainingRun(world.settings(), KEY, find_arm("sft"), 0, tmp_path, "key"), {}, "cpu")
    assert model is not None
    stock: Any = model.backbone.model
    stock.get_output_embeddings().weight = model.backbone.embedding.weight
    with pytest.raises(TrainingError, match=r"also its output layer.*training\.strategy: ddp"):
        shard_base(model, torch.device("cpu"), 2)


def test_a_module_without_shards_is_left_as_it_is(world: World) -> None:
    embedding = load_backbone(KEY, str(world.folder / "base")).embedding
    weight = embedding.weight
    with gathered(embedding):
        assert embedding.weight is weight


@pytest.mark.parametrize("name", ["FSDP", "DEEPSPEED", "MEGATRON_LM"])
def test_accelerates_own_sharding_is_refused(world: World, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """On a CPU, accelerate would ignore the request without a warning."""
    monkeypatch.setenv(f"ACCELERATE_USE_{name}", "true")
    with pytest.raises(TrainingError, match=rf"ACCELERATE_USE_{name}.*set training\.strategy: fsdp"):
        _accelerator(world.settings())
