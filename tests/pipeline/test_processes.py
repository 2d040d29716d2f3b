"""A training in several processes: its number is part of the key, and a process that fails or is stopped ends the others."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from coat_core.errors import StageError
from coat_core.pipeline.graph import find_stage, stage_key
from coat_core.pipeline.runner import run_stage
from coat_core.pipeline.workspace import make_workspace
from coat_core.settings import read_values
from coat_core.storage import read_json, read_jsonl, sha256_file
from tests.testing.chain_runs import HANG_S, PARAMS, environment, wait_for

TRIAL = "qwen2_audio-coat-0"
STAGE = f"train@{TRIAL}"
CHANGES = {"training.processes": 2, "training.batch_size": 2, "training.ground_steps": 2, "training.respond_steps": 4,
           "training.checkpoint_every": 2, "thinking.start_items": 4}  # fmt: skip

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace whose inputs of a training are made."""
    made = make_workspace(tmp_path_factory.mktemp("processes") / "workspace", PARAMS, CHANGES)
    experts = list(read_values(made / "params.yaml")["experts"])
    for stage in ["corpus", "contract", *(f"features@{key}" for key in experts), "audio@qwen2_audio"]:
        run_stage(stage, made)
    return made


@pytest.fixture
def workspace(ready: Path, tmp_path: Path) -> Iterator[Path]:
    copied = shutil.copytree(ready, tmp_path / "workspace", symlinks=True)
    for name in ("coat_core", "bases", ".venv"):
        (copied / name).unlink()
        (copied / name).symlink_to((ready / name).resolve(), target_is_directory=True)
    yield copied
    shutil.rmtree(copied)


def test_two_processes_train_one_release(workspace: Path) -> None:
    run_stage(STAGE, workspace)
    history = read_jsonl(workspace / f"runs/{TRIAL}/history.jsonl")
    assert [row["step"] for row in history] == list(range(1, 7))
    assert (workspace / f"models/{TRIAL}/adapter_model.safetensors").is_file()
    first = sha256_file(workspace / f"models/{TRIAL}/adapter_model.safetensors")
    shutil.rmtree(workspace / ".scratch")
    run_stage(STAGE, workspace)
    assert sha256_file(workspace / f"models/{TRIAL}/adapter_model.safetensors") == first


def test_the_number_of_processes_is_part_of_the_key(workspace: Path) -> None:
    values = read_values(workspace / "params.yaml")
    stage, keys = find_stage(STAGE, workspace, values), set()
    for count in (1, 2, 3):
        values["training"]["processes"] = count
        keys.add(stage_key(stage, workspace, values))
    assert len(keys) == 3


def test_a_process_that_fails_is_named_and_ends_the_others(workspace: Path) -> None:
    shutil.rmtree(workspace / "features/pitch")
    (workspace / "features/pitch").mkdir()
    with pytest.raises(StageError, match=r"process \d: ExpertError: .*features/pitch"):
        run_stage(STAGE, workspace)
    assert not _processes_in(workspace)
    assert read_json(workspace / f".scratch/outcomes/{STAGE}.json")["retryable"] is False
    assert not (workspace / f"models/{TRIAL}").exists()


@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_process_is_named_and_ends_the_others(workspace: Path, rank: int) -> None:
    running = _start(workspace)
    assert wait_for(lambda: len(_processes_in(workspace)) == 3 and _has_checkpoint(workspace))
    next(process for process in _processes_in(workspace) if process.environ().get("RANK") == str(rank)).kill()
    assert running.wait(HANG_S) == 1
    assert not _processes_in(workspace)
    assert f"process {rank} of the training was killed" in read_json(workspace / f".scratch/outcomes/{STAGE}.json")["message"]


def test_a_stopped_training_continues_with_the_same_weights(workspace: Path) -> None:
    running = _start(workspace)
    assert wait_for(lambda: _has_checkpoint(workspace) or running.poll() is not None)
    running.send_signal(signal.SIGTERM)
    assert running.wait(HANG_S) in (0, 130)
    assert not _processes_in(workspace)
    run_stage(STAGE, workspace)
    stopped = sha256_file(workspace / f"models/{TRIAL}/adapter_model.safetensors")
    shutil.rmtree(workspace / ".scratch")
    run_stage(STAGE, workspace)
    assert sha256_file(workspace / f"models/{TRIAL}/adapter_model.safetensors") == stopped


def _start(workspace: Path) -> subprocess.Popen[bytes]:
    command = [Path(sys.executable).parent / "coat", "train", *TRIAL.split("-", 1)]
    return subprocess.Popen(command, cwd=workspace, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _has_checkpoint(workspace: Path) -> bool:
    return any(workspace.glob(".scratch/*/checkpoints/*"))


def _processes_in(workspace: Path) -> list[psutil.Process]:
    """Return the processes whose working folder is the workspace."""
    found = []
    for process in psutil.process_iter():
        try:
            if Path(process.cwd()) == workspace.resolve() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (psutil.Error, OSError):
            continue
    return found
