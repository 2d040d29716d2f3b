"""Runs one stage of `dvc.yaml`; knows neither Prefect nor DVC.

A stage writes below `.scratch/<stage key>/`, so that a killed stage resumes. The finished outputs are published by copy and stay in
the scratch folder until the next key of the same stage begins. `outcome.json` records how the stage ended.
"""

from __future__ import annotations

import os
import shutil
import traceback
from collections.abc import Mapping
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coat_core import storage, watchdog
from coat_core.errors import CoatError, OutOfMemoryError
from coat_core.full_disk import full_disk
from coat_core.pipeline.graph import Stage, find_stage, stage_key
from coat_core.settings import Settings, load_settings, read_values

if TYPE_CHECKING:
    from coat_core.training.tracker import Tracker

SCRATCH = Path(".scratch")
OUTCOMES = SCRATCH / "outcomes"
_DONE = "stage.done.json"

_RETRYABLE = (OSError, MemoryError)
"""A lost mount, no memory: the same call may succeed later. Invalid data or params never do."""


@dataclass(frozen=True)
class StageRun:
    """The arguments of a stage function."""

    stage: Stage
    settings: Settings
    workspace: Path
    key: str
    scratch: Path
    """Survives a kill; private to this stage key."""

    def out(self, path: str) -> Path:
        """Return where to write a declared output; it is published when the stage has finished."""
        assert path in self.stage.outs, f"{path} is not an out of {self.stage.name}"
        return self.scratch / "out" / path

    def path(self, path: str) -> Path:
        """Return the path of an input in the workspace."""
        return self.workspace / path

    def open_tracker(self, run_name: str) -> AbstractContextManager[Tracker]:
        """Open the tracker of a training run. MLflow records what a stage does and changes none of its outputs."""
        from coat_core.registry.tracking import open_tracker

        return open_tracker(self.workspace, experiment="coat", run_name=run_name, stage_key=self.key)

    def log_run_metrics(self, name: str, metrics: Mapping[str, float]) -> None:
        """Record metrics with the run that trained `models/<name>`, if MLflow has it; the outputs of a stage do not depend on it."""
        from coat_core.registry.tracking import log_to_recorded_run

        log_to_recorded_run(self.workspace, self.workspace / "runs" / name, metrics)

    def log_results(self, results: Mapping[str, Any], report: Path) -> None:
        """Record the results of each trial with the run that trained it, if MLflow has it; the outputs of a stage do not depend on it."""
        from coat_core.registry.run_metrics import log_results

        log_results(self.workspace, results, report)

    def run_in_processes(self, count: int) -> bool:
        """Run this stage in processes (`run_here` of its module) and wait for them; how they are started changes none of the outputs.

        Returns:
            False: a launcher has started this process as one of several already.
        """
        from coat_core.pipeline.processes import launched_rank, run_in_processes

        if launched_rank() is not None:
            return False
        run_in_processes(self.stage.name, count, self.workspace, self.scratch)
        return True

    def explain_training_memory(self, *arguments: Any) -> OutOfMemoryError:
        """Return the error of a training step that ran out of memory; advice changes none of the outputs."""
        from coat_core.sizing.out_of_memory import explain_training_step

        return explain_training_step(*arguments)

    def explain_answering_memory(self, *arguments: Any) -> OutOfMemoryError:
        """Return the error of a batch of answers that ran out of memory; advice changes none of the outputs."""
        from coat_core.sizing.out_of_memory import explain_answering

        return explain_answering(*arguments)


def run_stage(name: str, workspace: Path = Path()) -> None:
    """Run one stage, or publish what an earlier, killed run of the same key had finished.

    Raises:
        CoatError: params or inputs are invalid, or the stage failed; nothing is published then.
    """
    watchdog.watch_owner()
    outcome = workspace / OUTCOMES / f"{name}.json"
    outcome.unlink(missing_ok=True)
    try:
        _run(name, workspace)
    except BaseException as error:
        full = full_disk(error, workspace)
        # A full disk may have no room for the outcome either; the flow then reads the stage's output.
        with suppress(OSError):
            storage.write_json(outcome, outcome_of(full or error))
        if full is not None:
            raise full from error
        raise
    storage.write_json(outcome, {"class": "ok", "message": "", "retryable": False, "detail": ""})


def outcome_of(error: BaseException) -> dict[str, Any]:
    """Return the content of the outcome file of a stage that failed with this error; called where it is handled."""
    retryable = error.retryable if isinstance(error, CoatError) else isinstance(error, _RETRYABLE)
    detail = "" if isinstance(error, CoatError) else traceback.format_exc()
    return {"class": type(error).__name__, "message": str(error), "retryable": retryable, "detail": detail}


def open_stage(name: str, workspace: Path) -> StageRun:
    """Return the arguments of a stage function for the params, inputs and code as they are now.

    Raises:
        CoatError: params are invalid, or an input is missing.
    """
    settings = load_settings(workspace / "params.yaml")
    values = read_values(workspace / "params.yaml")
    stage = find_stage(name, workspace, values)
    key = stage_key(stage, workspace, values)
    return StageRun(stage, settings, workspace, key, workspace / SCRATCH / key)


def withdraw(name: str, workspace: Path) -> None:
    """Forget that a stage has finished: its next run calls the stage function again, which itself finds out what there is to do."""
    (open_stage(name, workspace).scratch / _DONE).unlink(missing_ok=True)


def _run(name: str, workspace: Path) -> None:
    job = open_stage(name, workspace)
    stage, scratch = job.stage, job.scratch
    _drop_older(stage, workspace, keep=scratch)
    scratch.mkdir(parents=True, exist_ok=True)
    storage.write_text(scratch / "stage.txt", stage.name)
    # A store is updated in place and is not in the scratch folder: its stage runs again, and itself finds out what there is to do.
    if not ((scratch / _DONE).exists() and all((scratch / "out" / out).exists() for out in stage.outs)):
        set_threads(job.settings)
        import_module(stage.module).run(job)
        storage.write_json(scratch / _DONE, {"stage": stage.name, "outs": list(stage.outs)})
    for out in stage.outs:
        if (scratch / "out" / out).exists():
            storage.copy_tree(scratch / "out" / out, workspace / out)


def _drop_older(stage: Stage, workspace: Path, keep: Path) -> None:
    """Remove the scratch folders of older keys of the same stage."""
    for mark in (workspace / SCRATCH).glob("*/stage.txt"):
        if mark.parent != keep and mark.read_text() == stage.name:
            shutil.rmtree(mark.parent, ignore_errors=True)


def set_threads(settings: Settings) -> None:
    """Fix the number of threads before any numerical library is loaded: one thread and two give different weights."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
        os.environ[name] = str(settings.runtime.threads)
