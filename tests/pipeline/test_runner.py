"""A stage leaves an outcome, publishes whole, and does not do finished work twice."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import pytest
import yaml

from coat_core.errors import ContractError, StageError
from coat_core.full_disk import DiskFullError
from coat_core.pipeline.runner import StageRun, run_stage
from coat_core.pipeline.stages import corpus
from coat_core.storage import read_json, write_text

ROOT = Path(__file__).resolve().parents[2]
GRAPH = """
stages:
  corpus:
    cmd: "true"
    deps: [coat_core/corpus]
    params: [corpus]
    outs: [data/corpus]
"""


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "dvc.yaml").write_text(GRAPH)
    (tmp_path / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    (tmp_path / "coat_core/corpus").mkdir(parents=True)
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
        monkeypatch.setenv(name, "1")
    return tmp_path


def _stage(monkeypatch: pytest.MonkeyPatch, work) -> list[StageRun]:
    calls: list[StageRun] = []

    def stage(run: StageRun) -> None:
        calls.append(run)
        work(run)

    monkeypatch.setattr(corpus, "run", stage)
    return calls


def test_outs_are_published_and_finished_work_is_not_done_again(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = _stage(monkeypatch, lambda run: write_text(run.out("data/corpus") / "a", "1"))
    run_stage("corpus", workspace)
    assert (workspace / "data/corpus/a").read_text() == "1"
    assert read_json(workspace / ".scratch/outcomes/corpus.json")["class"] == "ok"
    (workspace / "data/corpus/a").unlink()
    run_stage("corpus", workspace)
    assert (workspace / "data/corpus/a").read_text() == "1"
    assert len(calls) == 1


def test_a_stage_that_updates_its_output_in_place_runs_at_every_call(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = _stage(monkeypatch, lambda run: write_text(run.path("data/corpus") / "a", str(len(calls))))
    for expected in ("1", "2"):
        run_stage("corpus", workspace)
        assert (workspace / "data/corpus/a").read_text() == expected
    assert len({run.key for run in calls}) == 1


def test_another_key_starts_anew_and_drops_the_older(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = _stage(monkeypatch, lambda run: write_text(run.out("data/corpus") / "a", run.key))
    run_stage("corpus", workspace)
    params = workspace / "params.yaml"
    params.write_text(params.read_text().replace("seed: 7", "seed: 8"))
    run_stage("corpus", workspace)
    assert len({run.key for run in calls}) == 2
    assert not calls[0].scratch.exists()
    assert (workspace / "data/corpus/a").read_text() == calls[1].key


@pytest.mark.parametrize(
    ("error", "retryable"), [(ContractError("bad rows"), False), (OSError("disk full"), True), (KeyError("our bug"), False)]
)
def test_a_failure_publishes_nothing_and_says_whether_to_retry(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, retryable: bool
) -> None:
    def work(run: StageRun) -> None:
        write_text(run.out("data/corpus") / "a", "half")
        raise error

    _stage(monkeypatch, work)
    with pytest.raises(type(error)):
        run_stage("corpus", workspace)
    outcome = read_json(workspace / ".scratch/outcomes/corpus.json")
    assert outcome["class"] == type(error).__name__
    assert outcome["retryable"] is retryable
    assert not (workspace / "data").exists()


def test_a_full_disk_may_be_retried_and_publishes_nothing(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def work(run: StageRun) -> None:
        write_text(run.out("data/corpus") / "a", "half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    _stage(monkeypatch, work)
    with pytest.raises(DiskFullError, match=f"free at {workspace}"):
        run_stage("corpus", workspace)
    outcome = read_json(workspace / ".scratch/outcomes/corpus.json")
    assert (outcome["class"], outcome["retryable"], outcome["detail"]) == ("DiskFullError", True, "")
    assert outcome["message"].startswith("the disk is full: ")
    assert not (workspace / "data").exists()


def test_an_outcome_that_cannot_be_written_hides_no_error(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def work(run: StageRun) -> None:
        shutil.rmtree(workspace / ".scratch/outcomes", ignore_errors=True)
        (workspace / ".scratch/outcomes").write_text("no folder")
        raise ContractError("bad rows")

    _stage(monkeypatch, work)
    with pytest.raises(ContractError, match="bad rows"):
        run_stage("corpus", workspace)


def test_an_undeclared_out_is_our_bug(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _stage(monkeypatch, lambda run: write_text(run.out("data/other"), "x"))
    with pytest.raises(AssertionError, match="data/other is not an out"):
        run_stage("corpus", workspace)


def test_training_is_refused_where_graph_and_params_name_different_experts(workspace: Path) -> None:
    values = yaml.safe_load((ROOT / "params.yaml").read_text())
    stores = [f"features/{key}" for key in values["experts"]]
    train = {
        "matrix": {"backbone": "${backbones}", "trial": "${trials}"},
        "cmd": "true",
        "deps": stores[1:],
        "params": ["experts"],
        "outs": ["models/${item.backbone}-${item.trial}"],
    }
    (workspace / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"train": train}}))
    for store in stores:
        (workspace / store).mkdir(parents=True)
    with pytest.raises(StageError, match=r"train depends on other stores.*coat workspace \. --params params\.yaml"):
        run_stage("train@qwen2_audio-coat-0", workspace)
    assert not (workspace / "models").exists()
