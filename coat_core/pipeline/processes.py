"""One training in several processes, one for each GPU.

On one host the stage starts the processes, each with the environment that `torchrun` would give it. If one fails, the others, which wait
for it in a collective, are killed. A stop is passed on once: the trainer's ranks agree on the step after which they write a checkpoint and
end. On several hosts `torchrun` starts `coat train` in every process, and each joins the training (`join`).
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

from coat_core import storage
from coat_core.errors import CoatError, Interrupted, StageError
from coat_core.servers import free_port

RANKS = "ranks"
"""Folder in the scratch folder with the outcome of each process that failed."""
_INTERVAL_S = 0.2


def launched_rank() -> int | None:
    """Return the rank of this process in a launch by `torchrun` or `accelerate launch`; None if it was started alone."""
    return int(os.environ["RANK"]) if "RANK" in os.environ and int(os.environ.get("WORLD_SIZE", "1")) > 1 else None


class ProcessFailedError(StageError):
    """A process of a training failed; `retryable` is that of its own error."""

    def __init__(self, message: str, *, retryable: bool) -> None:
        super().__init__(message)
        self.retryable = retryable


def run_in_processes(stage: str, count: int, workspace: Path, scratch: Path) -> None:
    """Run a train stage in processes and wait for them.

    Args:
        stage: name of the stage.
        count: number of processes.
        workspace: folder with `dvc.yaml` and `params.yaml`.
        scratch: scratch folder of the stage.

    Raises:
        ProcessFailedError: a process failed; the message is that of its error.
        Interrupted: the stage was stopped; a checkpoint was written.
    """
    ranks = scratch / RANKS
    ranks.mkdir(parents=True, exist_ok=True)
    for old in ranks.iterdir():
        old.unlink()
    shared = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(count)}
    processes = []
    try:
        for rank in range(count):
            variables = {"RANK": str(rank), "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(count)}
            arguments = [sys.executable, "-m", "coat_core.pipeline.processes", stage, str(ranks / f"{rank}.json")]
            # A session of its own: Ctrl-C in a terminal would reach each process twice.
            processes.append(subprocess.Popen(arguments, cwd=workspace, env={**shared, **variables}, start_new_session=True))
        _wait(processes, ranks)
    except KeyboardInterrupt:
        _stop(processes)
        raise Interrupted("training was stopped", next_step="run the same command again") from None
    finally:
        for process in processes:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def _wait(processes: Sequence[subprocess.Popen[bytes]], ranks: Path) -> None:
    """Wait until all processes have ended well.

    Raises:
        ProcessFailedError: one has not.
    """
    while True:
        if any(process.poll() for process in processes):
            statuses = [process.poll() for process in processes]
            failed = [rank for rank, status in enumerate(statuses) if status]
            cause = min(failed, key=lambda rank: _time_of_failure(ranks / f"{rank}.json"))
            raise _error(cause, statuses[cause] or 0, ranks)
        if all(process.poll() == 0 for process in processes):
            return
        time.sleep(_INTERVAL_S)


def _time_of_failure(outcome: Path) -> int:
    """Return when a process failed [ns], 0 if it was killed: the others fail after it, in the collective that it left."""
    return outcome.stat().st_mtime_ns if outcome.is_file() else 0


def _error(rank: int, status: int, ranks: Path) -> StageError:
    path = ranks / f"{rank}.json"
    if not path.is_file():
        return ProcessFailedError(f"process {rank} of the training was killed (exit status {status})", retryable=False)
    outcome = storage.read_json(path)
    if outcome["class"] == Interrupted.__name__:
        return ProcessFailedError(outcome["message"], retryable=True)
    text = outcome["detail"] or outcome["message"]
    return ProcessFailedError(f"process {rank}: {outcome['class']}: {text}", retryable=bool(outcome["retryable"]))


def _stop(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """Ask the processes to stop, and wait until they have written their checkpoint."""
    for process in processes:
        if process.poll() is None:
            process.terminate()
    for process in processes:
        process.wait()


def join(stage: str, rank: int, workspace: Path = Path()) -> None:
    """Run the part of one rank in a train stage that was launched from outside; rank 0 publishes the outputs in its workspace.

    An error is printed and ends the process at once: another rank may wait in a collective, and torch would wait for it.
    """
    from coat_core.pipeline.runner import run_stage, withdraw

    try:
        if rank == 0:
            # Every rank must take part, also where this one has already finished.
            withdraw(stage, workspace)
            run_stage(stage, workspace)
        else:
            _run_part(stage, workspace)
    except BaseException as error:
        text = str(error) if isinstance(error, CoatError) else traceback.format_exc()
        print(f"coat: process {rank}: {text}", file=sys.stderr, flush=True)
        os._exit(error.exit_status if isinstance(error, CoatError) else 1)


def main() -> None:
    """Run this process's part of a training; its error goes to a file that the stage reads."""
    from coat_core import logs, watchdog
    from coat_core.pipeline.runner import outcome_of

    name, outcome = sys.argv[1], Path(sys.argv[2])
    logs.start(stage=name, rank=int(os.environ["RANK"]))
    watchdog.watch_owner()
    try:
        _run_part(name, Path())
    except BaseException as error:
        storage.write_json(outcome, outcome_of(error))
        # Not a clean exit: another process may wait in a collective, and torch would wait for it.
        os._exit(1)


def _run_part(name: str, workspace: Path) -> None:
    from coat_core.pipeline.runner import open_stage, set_threads
    from coat_core.pipeline.stages import train

    job = open_stage(name, workspace)
    set_threads(job.settings)
    train.run_here(job)


if __name__ == "__main__":
    main()
