"""The main flow: run what is stale of the graph, then register, compare, decide and promote."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from prefect import State, flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import TaskRun
from prefect.futures import PrefectFuture
from prefect.task_runners import ThreadPoolTaskRunner

from coat_core import storage
from coat_core.errors import StageError
from coat_core.pipeline.stages import OUTCOMES
from coat_core.pipeline.workspace import match_graph
from coat_core.registry.housekeeping import close_dead_runs
from coat_core.settings import Settings, load_settings
from flows import dvc
from flows.lock import hold_workspace, prune_scratch
from flows.processes import StageProcesses
from flows.promotion import promote_backbones
from flows.records import close_dead_flow_runs, publish_contract, publish_results
from flows.schedule import accelerated, blocked_stages, ready_stages

LOGS = Path(".scratch/logs")
_POLL_S = 0.2


class StageFailedError(StageError):
    """A stage ended badly; `retryable` is what its own outcome says."""

    def __init__(self, message: str, *, retryable: bool, log: Path) -> None:
        super().__init__(f"{message}; log: {log}")
        self.retryable = retryable


def _may_retry(task_: Any, run: TaskRun, state: State[Any]) -> bool:
    error = state.data if isinstance(state.data, BaseException) else state.result(raise_on_failure=False)
    return bool(getattr(error, "retryable", False)) and not _processes.closed


@task(cache_policy=NO_CACHE, retries=2, retry_delay_seconds=5, retry_condition_fn=_may_retry, persist_result=False)
def run_stage(name: str, workspace: str) -> float:
    """Run one stage through DVC and return its seconds; DVC skips it when nothing it depends on has changed.

    Raises:
        StageFailedError: the stage failed; the class and message are those of its `outcome.json`, for DVC hides exit codes.
    """
    place, started = Path(workspace), time.monotonic()
    outcome, log = place / OUTCOMES / f"{name}.json", place / LOGS / f"{name}.log"
    outcome.unlink(missing_ok=True)
    ended = _processes.run(dvc.reproduce_command(name), place, log)
    if ended.returncode:
        said = storage.read_json(outcome) if outcome.exists() else {"class": "Killed", "message": ended.output[-1500:], "retryable": False}
        raise StageFailedError(f"{name}: {said['class']}: {said['message']}", retryable=bool(said["retryable"]), log=log)
    return time.monotonic() - started


@flow(
    name="coat",
    flow_run_name="chain in {workspace}",
    validate_parameters=False,
    persist_result=False,
    task_runner=ThreadPoolTaskRunner(max_workers=32),  # type: ignore[arg-type]
)
def chain(workspace: str = ".", jobs: int | None = None) -> dict[str, Any]:
    """Bring the workspace up to date and the registry with it.

    Args:
        workspace: folder with `dvc.yaml` and `params.yaml`.
        jobs: stages side by side; default: the number of cores.

    Returns:
        `stages` (seconds of each that ran) and `decisions` (one a backbone).

    Raises:
        StageError: a stage failed, after everything that does not wait for it has ended.
        BusyError: another run holds the workspace.
        CoatError: the default graph names other experts than params.
    """
    place = Path(workspace)
    with hold_workspace(place):
        _processes.open()
        try:
            close_dead_flow_runs()
            close_dead_runs(place)
            settings = load_settings(place / "params.yaml")
            match_graph(place, list(settings.experts))
            stages = _run_stale(place, jobs or os.cpu_count() or 1, settings)
            publish_contract(place)
            decisions = promote_backbones(place)
            publish_results(place, decisions)
            prune_scratch(place)
        except BaseException:
            _processes.end_all()
            raise
    return {"stages": stages, "decisions": decisions}


def _run_stale(workspace: Path, jobs: int, settings: Settings) -> dict[str, float]:
    """Run the stale stages and what waits for them, side by side where the graph allows it."""
    logger = get_run_logger()
    graph = dvc.read_graph(workspace)
    shared = accelerated(graph, settings)
    todo = set(dvc.with_descendants(dvc.read_stale(workspace), graph))
    total, running, seconds, failures = len(todo), dict[str, PrefectFuture[float]](), dict[str, float](), dict[str, str]()
    logger.info("%d of %d stages to run", total, len(graph))
    while todo or running:
        for name in ready_stages(graph, todo=todo, running=running, failed=failures, jobs=jobs, accelerated=shared):
            todo.discard(name)
            running[name] = run_stage.with_options(name=name, task_run_name=name).submit(name, str(workspace))
            logger.info("start %s", name)
        for name, future in list(running.items()):
            if not future.state.is_final():
                continue
            del running[name]
            result = future.result(raise_on_failure=False)
            if isinstance(result, BaseException):
                failures[name] = str(result)
                skipped = blocked_stages(graph, todo, failures)
                todo -= skipped
                logger.error("%s failed; %d stages wait for it and are left out: %s", name, len(skipped), result)
            else:
                seconds[name] = result
                logger.info("[%d/%d] %s  %.0f s", len(seconds), total, name, result)
        time.sleep(_POLL_S)
    if failures:
        raise StageError(
            f"{len(failures)} of {total} stages failed:\n" + "\n".join(f"  {text}" for text in failures.values()),
            next_step="mend the cause and run the same command again; what is finished is kept",
        )
    return seconds


_processes = StageProcesses()
