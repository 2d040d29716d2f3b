"""Computation of the features of clips, and the shards they are written to.

An acoustic expert processes clip by clip. A neural expert processes batches (see `plan`) while threads read the next batches. On a CPU
several batches are computed at once, each in a single thread: most operations of a small model are too small for several threads. The
features do not depend on the number of threads.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from coat_core.errors import ExpertError, OutOfMemoryError
from coat_core.experts.base import Expert
from coat_core.experts.prefetch import prefetch
from coat_core.experts.store.plan import Batch, Plan
from coat_core.experts.store.shards import Clip, ShardJob
from coat_core.experts.store.waveforms import Waveforms

Padded = tuple[NDArray[np.float32], NDArray[np.int64]]
"""Waveforms `[B, N]`, zero-padded, and lengths `[B]`."""


def write_acoustic(expert: Expert, jobs: Sequence[ShardJob], written: Callable[[ShardJob], object]) -> None:
    """Compute the missing clips of each shard, one by one, and write the shard.

    Args:
        expert: an acoustic expert.
        jobs: the shards to write.
        written: called with each shard that is on disk.
    """
    for job in jobs:
        known, waveforms = job.known(), Waveforms(expert.spec.sample_rate_hz, job.cache)
        with one_thread():
            new = {s: compute_clip(expert, job.key, s, path, waveforms) for s, path in job.audio.items() if s not in known}
        job.write({**known, **new})
        written(job)


def write_neural(
    expert: Expert, plan: Plan, jobs: Sequence[ShardJob], audio: Mapping[str, Path], threads: int, written: Callable[[ShardJob], object]
) -> None:
    """Compute the missing clips of shards in the plan's batches, and write each shard once its group is computed.

    A batch of the plan is left out only if every shard of its clips is complete; a clip that is computed a second time is dropped.

    Args:
        expert: a neural expert.
        plan: the batches.
        jobs: the shards to write.
        audio: file of every clip of the plan, by hash.
        threads: number of batches that are read at once and, on a CPU, computed at once.
        written: called with each shard that is on disk.
    """
    if not jobs:
        return
    needed = {sha256 for job in jobs for sha256 in job.missing()}
    groups = [[batch for batch in group if needed.intersection(batch)] for group in plan.groups()]
    shards_of_group = [{plan.layout.name(sha256) for batch in group for sha256 in batch if sha256 in needed} for group in groups]
    # Shards that only lose clips need no batch; they are written first.
    groups, shards_of_group = [[], *groups], [{job.path.name for job in jobs} - set().union(*shards_of_group), *shards_of_group]
    todo = [batch for group in groups for batch in group]
    with closing(_computed_batches(expert, jobs[0], todo, audio, threads)) as computed:
        for group, names in zip(groups, shards_of_group, strict=True):
            new: dict[str, Clip] = {}
            for batch in group:
                new.update(zip(batch, next(computed), strict=True))
            for job in jobs:
                if job.path.name in names:
                    job.write({**new, **job.known()})
                    written(job)


def compute_clip(expert: Expert, key: str, sha256: str, path: Path, waveforms: Waveforms) -> Clip:
    """Compute one clip alone; every frame is kept.

    Raises:
        AudioError: the file cannot be decoded.
        ExpertError: the hash of the file differs from `sha256`, or features have a wrong shape or are not finite in float16.
    """
    waveform = waveforms.read(sha256, path)
    features, mask = expert(waveform[None], np.array([len(waveform)], dtype=np.int64))
    _check_shape(expert, key, features, mask, [path])
    return _to_float16(expert, key, features[0], path), mask[0]


def read_batch(clips: Sequence[tuple[str, Path]], waveforms: Waveforms) -> Padded:
    """Read clips (audio hash and file) into one padded array.

    Raises:
        AudioError: a file cannot be decoded; the message names it.
        ExpertError: the hash of a file differs from the given one.
    """
    read = [waveforms.read(sha256, path) for sha256, path in clips]
    lengths = np.array([len(waveform) for waveform in read], dtype=np.int64)
    padded = np.zeros((len(read), int(lengths.max())), dtype=np.float32)
    for row, waveform in zip(padded, read, strict=True):
        row[: len(waveform)] = waveform
    return padded, lengths


def compute_batch(expert: Expert, key: str, paths: Sequence[Path], padded: Padded) -> list[Clip]:
    """Compute clips together; the frames of a clip up to its last valid one are kept, with zeros in invalid frames.

    Raises:
        ExpertError: features have a wrong shape, or are not finite in float16; the message names expert, clip, frame and dimension.
        OutOfMemoryError: the device has too little memory for the batch.
    """
    with _out_of_memory_advice(key, padded):
        features, mask = expert(*padded)
    _check_shape(expert, key, features, mask, paths)
    clips = []
    for path, frames, valid in zip(paths, features, mask, strict=True):
        # At least one frame, even if it is invalid: a shard cannot store a clip without frames.
        end = int(np.flatnonzero(valid)[-1]) + 1 if valid.any() else 1
        kept = np.where(valid[:end, None], frames[:end], np.float32(0.0))
        clips.append((_to_float16(expert, key, kept, path), valid[:end].copy()))
    return clips


@contextmanager
def one_thread() -> Iterator[None]:
    """Limit BLAS to one thread: with another number of threads sums may be rounded differently."""
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    with threadpool_limits(1):
        yield


def _computed_batches(
    expert: Expert, job: ShardJob, todo: Sequence[Batch], audio: Mapping[str, Path], threads: int
) -> Generator[list[Clip]]:
    """Yield the clips of every batch, in order."""
    waveforms = Waveforms(expert.spec.sample_rate_hz, job.cache)

    def read(batch: Batch) -> Padded:
        return read_batch([(sha256, audio[sha256]) for sha256 in batch], waveforms)

    def compute(item: tuple[Batch, Padded]) -> list[Clip]:
        batch, padded = item
        return compute_batch(expert, job.key, [audio[sha256] for sha256 in batch], padded)

    with closing(prefetch(read, todo, threads=threads)) as padded_batches:
        batches = zip(todo, padded_batches, strict=True)
        if job.settings.device == "cpu":
            with (
                _restored_thread_count(),
                one_thread(),
                closing(prefetch(compute, batches, threads=threads, initializer=_set_one_torch_thread)) as computed,
            ):
                yield from computed
        else:
            yield from map(compute, batches)


def _set_one_torch_thread() -> None:
    """Limit torch to one thread in the calling thread. A limit set in another thread applies only if this thread has not used torch yet."""
    import torch

    torch.set_num_threads(1)


@contextmanager
def _restored_thread_count() -> Iterator[None]:
    """Restore torch's number of threads, which `_set_one_torch_thread` changes for threads that start later."""
    import torch

    threads = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _check_shape(expert: Expert, key: str, features: NDArray[np.float32], mask: NDArray[np.bool_], paths: Sequence[Path]) -> None:
    spec, B = expert.spec, len(paths)
    if mask.ndim != 2 or len(mask) != B or mask.shape[1] == 0 or features.shape != (*mask.shape, spec.dim):
        raise ExpertError(
            f"expert {key} ({spec.implementation}) returned a wrong shape for {', '.join(map(str, paths))}",
            field="features",
            value=(features.shape, mask.shape),
            allowed=f"[{B}, T, {spec.dim}] and a mask [{B}, T]",
        )


def _to_float16(expert: Expert, key: str, features: NDArray[np.float32], path: Path) -> NDArray[np.float16]:
    spec = expert.spec
    with np.errstate(over="ignore"):
        stored = features.astype(np.float16)
    bad = np.argwhere(~np.isfinite(stored))
    if len(bad):
        frame, dim = (int(i) for i in bad[0])
        raise ExpertError(
            f"expert {key} ({spec.implementation}) returned {len(bad)} values that are not finite in float16 for {path}; "
            f"the first at frame {frame} ({frame / spec.native_rate_hz:.2f} s), dimension {dim} ({spec.dim_names[dim]})",
            field=f"features.{key}",
            value=float(features[frame, dim]),
            allowed="finite, at most 65504 in size",
            next_step="play the clip, then fix the expert or remove the clip; nothing of this shard was written",
        )
    return stored


@contextmanager
def _out_of_memory_advice(key: str, padded: Padded) -> Iterator[None]:
    """Convert an out-of-memory error of the device or the host to one that names the settings to change."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        # The type is compared by name, because an expert may not use torch. On a CPU torch raises a RuntimeError.
        host = isinstance(error, MemoryError) or "can't allocate memory" in str(error)
        if not host and type(error).__name__ != "OutOfMemoryError":
            raise
        waveforms, lengths = padded
        other = "lower runtime.threads (each computes a batch)" if host else "set dtype: bfloat16, or device: cpu"
        raise OutOfMemoryError(
            f"expert {key} ran out of memory on {len(lengths)} clips padded to {waveforms.shape[1]} samples: {error}",
            field=f"experts.{key}.batch_seconds",
            next_step=f"halve batch_seconds (down to the longest clip), or {other}",
        ) from error
