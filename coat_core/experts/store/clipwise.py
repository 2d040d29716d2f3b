"""Acoustic experts: clip by clip, shard by shard, in as many processes as asked for."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager

from coat_core.experts.base import Expert
from coat_core.experts.catalogue import load_expert
from coat_core.experts.store.describing import describe_clip
from coat_core.experts.store.shard_job import ShardJob
from coat_core.experts.store.waveforms import Waveforms


def write_clipwise(expert: Expert, jobs: Sequence[ShardJob], workers: int, done: Callable[[int], object]) -> None:
    """Write shards; the result does not depend on the number of processes.

    Args:
        expert: what describes the clips.
        jobs: the shards.
        workers: processes.
        done: told the number of clips of each shard that stands.
    """
    if workers == 1 or len(jobs) < 2:
        for job in jobs:
            write_shard(expert, job)
            done(len(job.audio))
        return
    from multiprocessing import get_context

    with ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_end_with_parent) as pool:
        futures = [pool.submit(_write_shard_in_worker, job) for job in jobs]
        try:
            for job, future in zip(jobs, futures, strict=True):
                future.result()
                done(len(job.audio))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def write_shard(expert: Expert, job: ShardJob) -> None:
    """Compute what is missing of a shard and write it whole."""
    known, waveforms = job.known(), Waveforms(expert.spec.sample_rate_hz, job.cache)
    with one_thread():
        new = {s: describe_clip(expert, job.key, s, path, waveforms) for s, path in job.audio.items() if s not in known}
    job.write({**known, **new})


@contextmanager
def one_thread() -> Iterator[None]:
    """Hold BLAS to one thread: another number of threads may round sums differently."""
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    with threadpool_limits(1):
        yield


def _write_shard_in_worker(job: ShardJob) -> None:
    write_shard(load_expert(job.settings.implementation, job.settings), job)


def _end_with_parent() -> None:
    """A worker whose parent was killed would wait for work for ever."""
    from multiprocessing import parent_process

    parent = parent_process()

    def watch() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
