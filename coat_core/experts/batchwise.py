"""Neural experts: batch by batch in this process, while a thread reads the next batches; shards are written group by group."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path

from coat_core.experts.base import Expert
from coat_core.experts.batching import Plan
from coat_core.experts.describing import describe_batch, read_batch
from coat_core.experts.prefetch import read_ahead
from coat_core.experts.shard import Clip, shard_name
from coat_core.experts.shard_job import ShardJob
from coat_core.experts.waveforms import Waveforms


def write_batchwise(expert: Expert, plan: Plan, jobs: Sequence[ShardJob], audio: Mapping[str, Path], done: Callable[[int], object]) -> None:
    """Compute what is missing of shards, in the plan's batches, and write each as soon as its group has been heard.

    A batch of the plan is left out only when every shard with a clip of it stands already; what is computed a second time is dropped.

    Args:
        expert: what describes the clips.
        plan: which clips are heard together.
        jobs: the shards that do not stand yet.
        audio: file of every clip of the plan, by hash.
        done: told the number of clips of each shard that stands.
    """
    if not jobs:
        return
    needed = {sha256 for job in jobs for sha256 in job.missing()}
    groups = [[batch for batch in group if needed.intersection(batch)] for group in plan.groups()]
    of_group = [{shard_name(sha256) for batch in group for sha256 in batch if sha256 in needed} for group in groups]
    # Shards that only lose clips wait for no one.
    groups, of_group = [[], *groups], [{job.path.name for job in jobs} - set().union(*of_group), *of_group]
    waveforms = Waveforms(expert.spec.sample_rate_hz, jobs[0].cache)
    todo = [[(sha256, audio[sha256]) for sha256 in batch] for group in groups for batch in group]
    with closing(read_ahead(lambda clips: read_batch(clips, waveforms), todo)) as heard:
        for group, names in zip(groups, of_group, strict=True):
            new: dict[str, Clip] = {}
            for batch in group:
                clips = describe_batch(expert, jobs[0].key, [audio[sha256] for sha256 in batch], next(heard))
                new.update(zip(batch, clips, strict=True))
            for job in jobs:
                if job.path.name in names:
                    job.write({**new, **job.known()})
                    done(len(job.audio))
