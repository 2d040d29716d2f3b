"""The whole chain on checkpoints in the published layout, from a folder that replaces the hub's cache; the hub cannot be reached."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from coat_core.experts.neural import audio_events, codec, speech_emotion, speech_encoder
from tests.testing import chain_runs
from tests.testing import expert_checkpoints as tiny_published
from tests.testing.published_layout import PUBLISHED, put_in_cache

ROOT = Path(__file__).resolve().parents[2]

pytestmark = [pytest.mark.slow, pytest.mark.published, pytest.mark.timeout(2 * chain_runs.HANG_S)]

EXPERTS = {
    module.KNOWN[0]: name
    for module, name in ((codec, "mimi"), (speech_encoder, "hubert"), (audio_events, "ast"), (speech_emotion, "emotion"))
}
"""The default checkpoint of each neural expert, by id and commit, and the tiny one that replaces it."""
NOWHERE = "http://127.0.0.1:9"
SMALL = {
    "runtime": {"device": "cpu", "threads": 1},
    "trials": ["base-0", "sft-0", "coat-0"],
    "corpus": {"kind": "generated", "path": None, "clips_per_family": {"train": 4, "validation": 2, "test": 2}, "questions_per_clip": 1,
               "max_duration_s": 4.0},
    "heads": {"width": 32, "layers": 1, "attention_heads": 2},
    "lora": {"rank": 4, "alpha": 8},
    "training": {"ground_steps": 1, "respond_steps": 2, "batch_size": 4, "batch_seconds": 8.0, "warmup_steps": 1, "checkpoint_every": 2,
                 "length_groups": 2, "tower_cache_mb": 256},
    "evaluation": {"max_new_tokens": 4, "bootstrap_resamples": 100, "suites": {}},
    "probes": {"trials": [], "baseline": None},
    "latency": {"clips": 1, "repeats": 1, "new_tokens": 2},
    "registry": {"max_unscored_share": 1.0},
}  # fmt: skip
"""Reduced params; the others are those of `params/published.yaml`: ids, commits, bfloat16, checkpointing, trainable tokens."""


@dataclass(frozen=True)
class Ran:
    """A workspace after `coat run`."""

    workspace: Path
    printed: str


@pytest.fixture(scope="module")
def ran(published_folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ran]:
    home = tmp_path_factory.mktemp("huggingface")
    for key, folder in published_folders.items():
        put_in_cache(PUBLISHED[key].repository, PUBLISHED[key].commit, folder, home / "hub")
    for known, name in EXPERTS.items():
        tiny_published.CHECKPOINTS[name](home / name)
        assert known.revision is not None
        put_in_cache(known.checkpoint, known.revision, home / name, home / "hub")
    params = yaml.safe_load((ROOT / "params/published.yaml").read_text())
    for section, values in SMALL.items():
        params[section] = {**params[section], **values} if isinstance(values, dict) else values
    params["experts"] = {key: {**expert, "device": "cpu"} for key, expert in params["experts"].items()}
    (home / "params.yaml").write_text(yaml.safe_dump(params))
    workspace = chain_runs.make_tiny(tmp_path_factory.mktemp("chain") / "published", home / "params.yaml")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HOME", str(home))
        patch.setenv("HF_ENDPOINT", NOWHERE)
        patch.setenv("HF_HUB_OFFLINE", "0")
        yield Ran(workspace, chain_runs.run_chain(workspace))


def test_the_chain_registers_all_three(ran: Ran) -> None:
    assert chain_runs.versions(ran.workspace) == {name: [1] for name in ("coat-audio-flamingo-3", "coat-qwen2-audio", "coat-qwen2.5-omni")}
    assert len(chain_runs.ran_stages(ran.printed)) == 2 + 5 + 3 + 9 + 9 + 9 + 3 + 1
    assert (ran.workspace / "report/report.html").stat().st_size > 1000
    assert json.loads(chain_runs.command("dvc", "status", "--json", workspace=ran.workspace).stdout) == {}


@pytest.mark.parametrize("key", PUBLISHED)
def test_a_release_names_its_base_by_commit_and_keeps_the_embedding_size(ran: Ran, key: str) -> None:
    from safetensors import safe_open

    published, release = PUBLISHED[key], ran.workspace / f"models/{key}-coat-0"
    # Start, end and eight think tokens, or one for all where there are too few ids.
    count = 3 if key == "audio_flamingo_3" else 10
    info = json.loads((release / "coat.json").read_text())
    assert (info["base"]["id"], info["base"]["revision"]) == (published.repository, published.commit)
    assert info["base"]["dtype"] == "bfloat16"
    adapter = json.loads((release / "adapter_config.json").read_text())
    assert (adapter["base_model_name_or_path"], adapter["revision"]) == (published.repository, published.commit)
    with safe_open(release / "adapter_model.safetensors", "pt") as tensors:
        rows = next(name for name in tensors.keys() if name.endswith("trainable_tokens_delta"))  # noqa: SIM118
        assert tensors.get_slice(rows).get_shape() == [count, 64]
        assert all(tensors.get_slice(name).get_shape()[0] < 1000 for name in tensors.keys()), "no embedding matrix"  # noqa: SIM118
    block = info["block"]
    ids = [block["start_id"], *block["think_ids"], block["end_id"]]
    if key == "audio_flamingo_3":
        assert ids == [151646, 151648, 151647], "no spare rows: reserved tokens are used"
    else:
        assert ids == list(range(published.tokens, published.tokens + count)), "the first spare rows"
        assert max(ids) < published.vocabulary
    generation = json.loads((release / "generation_config.json").read_text())
    assert generation["do_sample"] is False
    assert generation["suppress_tokens"] == sorted(ids)


def test_the_five_experts_of_the_shipped_params_are_distilled(ran: Ran) -> None:
    info = json.loads((ran.workspace / "models/qwen2_audio-coat-0/coat.json").read_text())
    revisions = {entry.checkpoint: entry.revision for entry in EXPERTS}
    assert set(info["experts"]) == {"reconstruction", "speech", "events", "affect", "pitch"}
    assert {spec["checkpoint"]: spec["revision"] for key, spec in info["experts"].items() if key != "pitch"} == revisions
    rows = [json.loads(line) for line in (ran.workspace / "runs/qwen2_audio-coat-0/history.jsonl").read_text().splitlines()]
    assert all(row[f"loss/{key}"] > 0 for row in rows for key in info["experts"])


@pytest.mark.parametrize("key", PUBLISHED)
def test_every_trial_answered_every_question(ran: Ran, key: str) -> None:
    counts = set()
    for trial in SMALL["trials"]:
        lines = (ran.workspace / f"responses/{key}-{trial}.jsonl").read_text().splitlines()
        assert all(json.loads(line)["response"] for line in lines)
        counts.add(len(lines))
    assert len(counts) == 1


def test_a_second_run_runs_nothing(ran: Ran) -> None:
    assert "0 of 41 stages to run" in chain_runs.run_chain(ran.workspace)
    assert all(found == [1] for found in chain_runs.versions(ran.workspace).values())
