"""The main flow: run the stale stages of the graph as Prefect tasks, then register, compare, decide and promote."""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from prefect import State, flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import TaskRun
from prefect.futures import PrefectFuture, as_completed
from prefect.runtime import deployment
from prefect.states import Cancelled
from prefect.task_runners import ThreadPoolTaskRunner

from coat_core import logs, storage
from coat_core.errors import Interrupted, StageError
from coat_core.full_disk import full_disk_in
from coat_core.pipeline.cache_users import cache_folder, record_user
from coat_core.pipeline.runner import OUTCOMES, outcome_of
from coat_core.pipeline.source import list_source, summary_text
from coat_core.pipeline.suites import list_suites
from coat_core.pipeline.workspace import match_graph
from coat_core.progress import PROGRESS
from coat_core.registry.tracking import close_dead_runs, recorded_run
from coat_core.settings import Settings, load_settings
from flows import dvc
from flows.limits import StageLimits, accelerated_stages
from flows.lock import hold_workspace, prune_scratch
from flows.processes import Ended, StageProcesses
from flows.progress import ProgressDisplay
from flows.progress_artifacts import ProgressArtifacts
from flows.promotion import decisions_text, promote_backbones
from flows.records import close_dead_flow_runs, publish_contract, publish_results, run_name
from flows.sharing import find_remote, pull, push
from flows.stage_logs import StageLogs, structure_logs

LOGS = Path(".scratch/logs")
PROGRESS_FILES = Path(".scratch/progress")


class StageFailedError(StageError):
    """A stage failed; `retryable` is the value in its own outcome file."""

    def __init__(self, message: str, *, retryable: bool, log: Path) -> None:
        super().__init__(f"{message}; log: {log}")
        self.retryable = retryable


class StageRuns:
    """What the stage tasks of one flow run share.

    Args:
        workspace: folder with `dvc.yaml` and `params.yaml`.
        upstream: every stage of this run with its upstream stages in this run, in topological order.
        limits: which of them may run side by side.
        logger: the flow run's logger. A task's own logger is silent, since Prefect writes a traceback to it.
        display: shows the progress of the running stages; default: one that is not open.
        artifacts: shows it on the run page; default: one that is not open.
    """

    def __init__(
        self,
        workspace: Path,
        upstream: Mapping[str, frozenset[str]],
        limits: StageLimits,
        logger: logging.Logger | logging.LoggerAdapter[Any],
        display: ProgressDisplay | None = None,
        artifacts: ProgressArtifacts | None = None,
    ) -> None:
        self.workspace, self.upstream, self.limits, self.logger = workspace, upstream, limits, logger
        self.display = display or ProgressDisplay(workspace / PROGRESS_FILES, logger)
        self.artifacts = artifacts or ProgressArtifacts(logger)
        self.logs = StageLogs()
        self.seconds: dict[str, float] = {}
        """Of each stage that has completed."""
        self._lock = threading.Lock()

    def run(self, name: str) -> float:
        """Run one stage through DVC when it gets its slot, and return its seconds; DVC skips it when nothing has changed.

        Raises:
            StageFailedError: the stage failed; class and message are those of its outcome file, since DVC hides exit codes.
            Interrupted: the run is being stopped.
        """
        outcome, log = self.workspace / OUTCOMES / f"{name}.json", self.workspace / LOGS / f"{name}.log"
        with self.limits.slot(name):
            self.logger.info("start %s", name, extra=logs.fields("stage_started", stage=name))
            outcome.unlink(missing_ok=True)
            started = time.monotonic()
            variables = {logs.RUN: str(run)} if (run := logs.bound("run")) else {}
            with self.display.stage(name) as progress, self.logs.follow(name, log):
                self.artifacts.follow(name, progress)
                ended = _processes.run(dvc.reproduce_command(name), self.workspace, log, **{PROGRESS: str(progress), **variables})
            if ended.returncode:
                record = _failure(outcome, ended, self.workspace)
                raise StageFailedError(f"{name}: {record['class']}: {record['message']}", retryable=bool(record["retryable"]), log=log)
            seconds = time.monotonic() - started
            if outcome.exists():
                # DVC ran the stage; it did not skip it.
                self.artifacts.complete(name, seconds)
            with self._lock:
                self.seconds[name] = seconds
                done = len(self.seconds)
                event = logs.fields(
                    "stage_completed", stage=name, seconds=round(seconds, 3), done=done, total=len(self.upstream),
                    mlflow_run=recorded_run(self.workspace / "runs" / name.partition("@")[2]),
                )  # fmt: skip
                self.logger.info("[%d/%d] %s  %.0f s", done, len(self.upstream), name, seconds, extra=event)
        return seconds


def _failure(outcome: Path, ended: Ended, workspace: Path) -> dict[str, Any]:
    """Return the record of a stage whose command failed."""
    record = storage.read_json(outcome) if outcome.exists() else {"class": "ok"}
    if record["class"] != "ok":
        return dict(record)
    # The stage was killed, DVC did not start it, or DVC failed after it: its cache was on a full disk.
    if full := full_disk_in(ended.output, workspace):
        return outcome_of(full)
    return {"class": f"exit status {ended.returncode}", "message": ended.output[-1500:].strip(), "retryable": False}


def _may_retry(task_: Any, run: TaskRun, state: State[Any]) -> bool:
    error = state.data if isinstance(state.data, BaseException) else state.result(raise_on_failure=False)
    return bool(getattr(error, "retryable", False)) and not _processes.closed


@task(cache_policy=NO_CACHE, retries=2, retry_delay_seconds=5, retry_condition_fn=_may_retry, persist_result=False)
def run_stage(name: str, runs: StageRuns) -> float | State[Any]:
    """Run one stage and return its seconds, or a cancelled state when the run is being stopped.

    Raises:
        StageFailedError: the stage failed.
    """
    try:
        return runs.run(name)
    except Interrupted as error:
        return Cancelled(message=str(error))


@flow(
    name="coat",
    flow_run_name=run_name,
    validate_parameters=False,
    persist_result=False,
    # One thread for each stage: most of them wait. `StageLimits` decides which run.
    task_runner=ThreadPoolTaskRunner(max_workers=sys.maxsize),  # type: ignore[arg-type]
)
def chain(workspace: str = ".", jobs: int | None = None) -> dict[str, Any]:
    """Bring the workspace up to date and the registry with it.

    Args:
        workspace: folder with `dvc.yaml` and `params.yaml`.
        jobs: stages side by side; default: the number of cores.

    Returns:
        `stages` (seconds of each stage that ran) and `decisions` (one for each backbone).

    Raises:
        StageError: a stage failed; every stage that does not depend on it has ended.
        BusyError: another run holds the workspace.
        CoatError: the default graph names other experts than params.
        EvaluationError: files of a public benchmark are missing; the message says what to fetch.
        StorageError: the source of the corpus is in a bucket that cannot be listed.
    """
    place = Path(workspace)
    structure_logs()
    with hold_workspace(place):
        _processes.open()
        try:
            close_dead_flow_runs()
            close_dead_runs(place)
            settings = load_settings(place / "params.yaml")
            match_graph(place, settings.experts, in_bucket=settings.corpus.in_bucket, suites=bool(settings.evaluation.suites))
            if settings.corpus.in_bucket:
                get_run_logger().info("source: %s", summary_text(list_source(place, settings.corpus)))
            if suites := settings.evaluation.suites:
                get_run_logger().info("%d public benchmarks: %d new or changed", len(suites), list_suites(place, suites))
            config = dvc.config(place)
            record_user(cache_folder(config, place), place)
            with _shared(place, config):
                seconds, last = _run_stale(place, jobs or os.cpu_count() or 1, settings)
            publish_contract(place)
            decisions = promote_backbones(place, wait_for=last)
            publish_results(place, decisions)
            if deployment.id:
                # `coat run` prints them at its end; a run of a deployment has only its log.
                get_run_logger().info("%s", decisions_text(decisions))
            prune_scratch(place)
        except BaseException:
            _processes.end_all()
            raise
    return {"stages": seconds, "decisions": decisions}


@contextmanager
def _shared(workspace: Path, config: Mapping[str, str]) -> Iterator[None]:
    """With a DVC remote: take over what other hosts have computed, and store what was computed here, also if a stage fails."""
    remote = find_remote(workspace, config)
    if remote is None:
        yield
        return
    logger = get_run_logger()
    logger.info("remote %s: %d stages taken over", remote.name, pull(workspace, remote))
    try:
        yield
    except StageError:
        try:
            push(workspace, remote)
        except StageError as error:
            logger.error("the results of the completed stages were not stored: %s", error)
        raise
    push(workspace, remote)
    logger.info("remote %s: results stored", remote.name)


def _run_stale(workspace: Path, jobs: int, settings: Settings) -> tuple[dict[str, float], list[PrefectFuture[Any]]]:
    """Run the stale stages and their descendants; return the seconds of each, and the futures of the stages without a downstream stage.

    Every stage is submitted once, in topological order, and waits for the futures of its upstream stages. When one of these does not
    complete, Prefect does not run the stage and records the state NotReady.
    """
    graph, logger = dvc.read_graph(workspace), get_run_logger()
    stale = dvc.with_descendants(dvc.read_stale(workspace), graph)
    upstream = dvc.direct_upstream({name: graph[name] & stale for name in graph if name in stale})
    logger.info(
        "%d of %d stages to run", len(upstream), len(graph), extra=logs.fields("graph_read", stale=list(upstream), total=len(graph))
    )
    limits = StageLimits(list(upstream), jobs=jobs, accelerated=accelerated_stages(graph, settings))
    display = ProgressDisplay(workspace / PROGRESS_FILES, logger)
    artifacts = ProgressArtifacts(logger)
    runs, futures = StageRuns(workspace, upstream, limits, logger, display, artifacts), dict[str, PrefectFuture[Any]]()
    try:
        with display.open(), artifacts.open():
            for name in upstream:
                before = [futures[other] for other in sorted(upstream[name])]
                task_ = run_stage.with_options(name=name, task_run_name=name)
                futures[name] = task_.submit(name, runs, wait_for=before)  # type: ignore[call-overload]
            _collect(futures, runs)
    except BaseException:
        limits.close()
        raise
    return runs.seconds, [futures[name] for name in upstream if not any(name in others for others in upstream.values())]


def _collect(futures: Mapping[str, PrefectFuture[Any]], runs: StageRuns) -> None:
    """Wait for all stages and report each failure once.

    Raises:
        StageError: stages failed; the message names each of them.
    """
    names = {future: name for name, future in futures.items()}
    failures, left_out = dict[str, str](), set[str]()
    for future in as_completed(list(names)):
        future.wait()
        name, state = names[future], future.state
        if not (state.is_failed() or state.is_crashed()):
            continue
        failures[name] = str(state.result(raise_on_failure=False))
        descendants = dvc.with_descendants(frozenset({name}), runs.upstream) - {name} - left_out
        left_out |= descendants
        runs.logger.error(
            "%s failed; %d stages depend on it and are left out: %s", name, len(descendants), failures[name],
            extra=logs.fields("stage_failed", stage=name, left_out=sorted(descendants)),
        )  # fmt: skip
    if failures:
        raise StageError(
            f"{len(failures)} of {len(futures)} stages failed, {len(left_out)} were left out:\n"
            + "\n".join(f"  {text}" for text in failures.values()),
            next_step="fix the cause and run the same command again; completed stages are kept",
        )


_processes = StageProcesses()
