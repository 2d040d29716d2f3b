"""Neural experts: batch by batch in this process, while threads read the next batches; shards are written group by group.

On a processor several batches are computed at once, each in a thread of its own and by that thread alone: most of a small model's
operations are too small to share out, and what a batch gives does not depend on the number of threads.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

from coat_core.experts.base import Expert
from coat_core.experts.prefetch import work_ahead
from coat_core.experts.store.batching import Batch, Plan
from coat_core.experts.store.clipwise import one_thread
from coat_core.experts.store.describing import Padded, describe_batch, read_batch
from coat_core.experts.store.shard import Clip, shard_name
from coat_core.experts.store.shard_job import ShardJob
from coat_core.experts.store.waveforms import Waveforms


def write_batchwise(
    expert: Expert, plan: Plan, jobs: Sequence[ShardJob], audio: Mapping[str, Path], threads: int, done: Callable[[int], object]
) -> None:
    """Compute what is missing of shards, in the plan's batches, and write each as soon as its group has been heard.

    A batch of the plan is left out only when every shard with a clip of it stands already; what is computed a second time is dropped.

    Args:
        expert: what describes the clips.
        plan: which clips are heard together.
        jobs: the shards that do not stand yet.
        audio: file of every clip of the plan, by hash.
        threads: batches that are read at once and, on a processor, computed at once.
        done: told the number of clips of each shard that stands.
    """
    if not jobs:
        return
    needed = {sha256 for job in jobs for sha256 in job.missing()}
    groups = [[batch for batch in group if needed.intersection(batch)] for group in plan.groups()]
    of_group = [{shard_name(sha256) for batch in group for sha256 in batch if sha256 in needed} for group in groups]
    # Shards that only lose clips wait for no one.
    groups, of_group = [[], *groups], [{job.path.name for job in jobs} - set().union(*of_group), *of_group]
    todo = [batch for group in groups for batch in group]
    with closing(_described(expert, jobs[0], todo, audio, threads)) as described:
        for group, names in zip(groups, of_group, strict=True):
            new: dict[str, Clip] = {}
            for batch in group:
                new.update(zip(batch, next(described), strict=True))
            for job in jobs:
                if job.path.name in names:
                    job.write({**new, **job.known()})
                    done(len(job.audio))


def _described(expert: Expert, job: ShardJob, todo: Sequence[Batch], audio: Mapping[str, Path], threads: int) -> Generator[list[Clip]]:
    """Yield the clips of every batch."""
    waveforms = Waveforms(expert.spec.sample_rate_hz, job.cache)

    def read(batch: Batch) -> Padded:
        return read_batch([(sha256, audio[sha256]) for sha256 in batch], waveforms)

    def describe(read: tuple[Batch, Padded]) -> list[Clip]:
        batch, padded = read
        return describe_batch(expert, job.key, [audio[sha256] for sha256 in batch], padded)

    with closing(work_ahead(read, todo, threads=threads)) as heard:
        batches = zip(todo, heard, strict=True)
        if job.settings.device == "cpu":
            with _kept_threads(), one_thread(), closing(work_ahead(describe, batches, threads=threads, start=_alone)) as described:
                yield from described
        else:
            yield from map(describe, batches)


def _alone() -> None:
    """Hold torch, in the thread that calls this, to that thread: a setting elsewhere reaches it only once torch has looked it up."""
    import torch

    torch.set_num_threads(1)


@contextmanager
def _kept_threads() -> Iterator[None]:
    """Put back what `_alone` sets for threads that begin later."""
    import torch

    threads = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(threads)
