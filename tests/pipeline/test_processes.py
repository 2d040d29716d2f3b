"""A training in several processes: number and strategy are part of the key, a process that fails or is stopped ends the others, and
`torchrun` starts the processes on several hosts."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest

from coat_core.errors import StageError
from coat_core.pipeline.graph import find_stage, stage_key
from coat_core.pipeline.runner import StageRun, run_stage
from coat_core.pipeline.workspace import make_workspace
from coat_core.servers import free_port
from coat_core.settings import read_values
from coat_core.storage import read_json, read_jsonl, sha256_file
from tests.testing.chain_runs import BIN, HANG_S, PARAMS, environment, wait_for

TRIAL = "qwen2_audio-coat-0"
RELEASE = f"models/{TRIAL}/adapter_model.safetensors"
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
    assert (workspace / RELEASE).is_file()
    first = sha256_file(workspace / RELEASE)
    shutil.rmtree(workspace / ".scratch")
    run_stage(STAGE, workspace)
    assert sha256_file(workspace / RELEASE) == first


def test_number_and_strategy_of_processes_are_part_of_the_key(workspace: Path) -> None:
    values = read_values(workspace / "params.yaml")
    stage, keys = find_stage(STAGE, workspace, values), set()
    for count, strategy in ((1, "single"), (2, "ddp"), (2, "fsdp"), (3, "fsdp")):
        values["training"] |= {"processes": count, "strategy": strategy}
        keys.add(stage_key(stage, workspace, values))
    assert len(keys) == 4


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
    assert wait_for(lambda: (len(_processes_in(workspace)) == 3 and _has_checkpoint(workspace)) or running.poll() is not None)
    assert running.poll() is None
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
    stopped = sha256_file(workspace / RELEASE)
    shutil.rmtree(workspace / ".scratch")
    run_stage(STAGE, workspace)
    assert sha256_file(workspace / RELEASE) == stopped


def test_a_killed_training_of_a_sharded_base_continues_with_the_same_weights(workspace: Path) -> None:
    _change(workspace, strategy="fsdp")
    running = _start(workspace)
    assert wait_for(lambda: (len(_processes_in(workspace)) == 3 and _has_checkpoint(workspace)) or running.poll() is not None)
    assert running.poll() is None
    next(process for process in _processes_in(workspace) if process.environ().get("RANK") == "1").kill()
    assert running.wait(HANG_S) == 1
    assert not _processes_in(workspace)
    run_stage(STAGE, workspace)
    killed = sha256_file(workspace / RELEASE)
    shutil.rmtree(workspace / ".scratch")
    run_stage(STAGE, workspace)
    assert sha256_file(workspace / RELEASE) == killed


def test_torchrun_starts_a_training_on_two_hosts(workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second host has no checkpoint; the first one has the release, which its next run takes over without a training."""
    _change(workspace, strategy="fsdp")
    hosts = [workspace, tmp_path / "other"]
    shutil.copytree(workspace, hosts[1], symlinks=True)
    _change(hosts[1], learning_rate=0.5)
    assert all("different params, inputs or code" in printed for printed in _torchrun(hosts, fails=True))
    shutil.copy(workspace / "params.yaml", hosts[1] / "params.yaml")
    assert any("was killed" in printed or "Signal 9" in printed for printed in _torchrun(hosts, fails=True, kill=True))
    _torchrun(hosts)
    assert not (hosts[1] / "models").exists()
    assert not _has_checkpoint(hosts[1])
    assert [row["step"] for row in read_jsonl(workspace / f"runs/{TRIAL}/history.jsonl")] == list(range(1, 7))
    trained = sha256_file(workspace / RELEASE)
    shutil.rmtree(workspace / "models")
    with monkeypatch.context() as patch:
        patch.setattr(StageRun, "run_in_processes", lambda *_: pytest.fail("it trains again"))
        run_stage(STAGE, workspace)
    assert sha256_file(workspace / RELEASE) == trained
    shutil.rmtree(workspace / ".scratch")
    run_stage(STAGE, workspace)
    assert sha256_file(workspace / RELEASE) == trained


def _change(workspace: Path, **training: Any) -> None:
    """Change values of the training section of a workspace."""
    changes = {f"training.{name}": value for name, value in training.items()}
    make_workspace(workspace, workspace / "params.yaml", changes)


def _torchrun(hosts: Sequence[Path], *, fails: bool = False, kill: bool = False) -> list[str]:
    """Start the training by torchrun in every workspace, one process each; return what each printed.

    Args:
        hosts: workspaces that stand for hosts.
        fails: whether the launch must fail.
        kill: whether the training process of the last host is killed after the first checkpoint.
    """
    options = ["--nnodes", str(len(hosts)), "--nproc-per-node", "1", "--master-addr", "127.0.0.1", "--master-port", str(free_port())]
    arguments = [str(BIN / "coat"), "train", *TRIAL.split("-", 1)]
    logs = [(host / "torchrun.log").open("w") for host in hosts]
    running = [
        subprocess.Popen(
            [BIN / "torchrun", *options, "--node-rank", str(rank), *arguments], cwd=host, env=environment(), stdout=log, stderr=log
        )
        for rank, (host, log) in enumerate(zip(hosts, logs, strict=True))
    ]
    try:
        if kill:
            assert wait_for(lambda: _has_checkpoint(hosts[0]) or any(process.poll() for process in running))
            next(process for process in _processes_in(hosts[-1]) if process.environ().get("RANK") == "1").kill()
        statuses = [process.wait(HANG_S) for process in running]
    finally:
        for process, log in zip(running, logs, strict=True):
            process.kill()
            process.wait()
            log.close()
    printed = [(host / "torchrun.log").read_text() for host in hosts]
    assert all(statuses) if fails else not any(statuses), "\n".join(text[-3000:] for text in printed)
    assert not any(_processes_in(host) for host in hosts)
    return printed


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
