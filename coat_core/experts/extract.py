"""Extraction: run one expert over every clip of a corpus, shard by shard, resumable at any moment.

The store's folder is worked on in place. A shard that is whole and was made by the same expert from the same clips stays;
of any other, the clips that the same expert described before are taken over. What a kill leaves behind is swept away, and
the index, removed before anything changes, is written last, so the bytes never depend on how often a run was cut off.
"""

from __future__ import annotations

import json
import os
import threading
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from coat_core.corpus.audio import decode
from coat_core.corpus.examples import Example
from coat_core.errors import ExpertError
from coat_core.experts.base import Expert
from coat_core.experts.catalogue import load_expert
from coat_core.experts.fingerprint import fingerprint
from coat_core.experts.normaliser import fit_normaliser
from coat_core.experts.shard import Clip, open_shard, shard_bytes, shard_name
from coat_core.experts.store import INDEX, NORMALISER, SPEC
from coat_core.storage import sha256_file, write_bytes


@dataclass(frozen=True)
class ShardJob:
    """One shard to be written."""

    key: str
    implementation: str
    fingerprint: str
    path: Path
    audio: dict[str, Path]
    """Audio file by SHA-256."""


def extract_features(key: str, implementation: str, examples: Sequence[Example], corpus: Path, target: Path, *, workers: int = 1) -> None:
    """Bring the store at `target` up to date with the examples' audio.

    Args:
        key: the expert's key in params, for messages and the progress bar.
        implementation: its name in the catalogue.
        examples: all examples, every split; each distinct audio is decoded once.
        corpus: the folder that the examples' paths are relative to.
        target: the store's folder, made or updated in place.
        workers: processes that share the shards; the result does not depend on it.

    Raises:
        ExpertError: no expert has this name, there is no training audio, a file is not the one its hash names, or a feature is not
            finite in float16 (expert, clip, frame and dimension are named; neither the shard nor an index is written).
        AudioError: a file cannot be decoded.
    """
    expert = load_expert(implementation)
    audio = {example.sha256: corpus / example.audio for example in sorted(examples, key=lambda e: (e.sha256, e.audio), reverse=True)}
    training = sorted({example.sha256 for example in examples if example.split == "train"})
    if not training:
        raise ExpertError(
            "there is no training audio to normalise by", field="split", value="train", next_step="give the corpus a training split"
        )
    with _one_thread():
        mark = fingerprint(expert)
    planned: dict[str, dict[str, Path]] = defaultdict(dict)
    for sha256 in sorted(audio):
        planned[shard_name(sha256)][sha256] = audio[sha256]
    target.mkdir(parents=True, exist_ok=True)
    jobs = [ShardJob(key, implementation, mark, target / name, clips) for name, clips in planned.items()]
    stale = [job for job in jobs if not _is_current(job)]
    leftovers = _leftovers(target, set(planned))
    if stale or leftovers:
        (target / INDEX).unlink(missing_ok=True)
    for path in leftovers:
        path.unlink()
    _write_shards(expert, key, stale, len(audio), workers)
    _publish(expert, mark, target, sorted(planned), training)


def _is_current(job: ShardJob) -> bool:
    try:
        shard = open_shard(job.path)
    except ExpertError:
        return False
    return shard.fingerprint == job.fingerprint and list(shard.frames) == sorted(job.audio)


def _leftovers(target: Path, planned: set[str]) -> list[Path]:
    """Shards of no clip, and temporary files of a killed run."""
    names = (*planned, INDEX, SPEC, NORMALISER)
    return sorted(
        path for path in target.iterdir()
        if (path.name.startswith("shard-") and path.name not in planned)
        or (path.name.startswith(".") and (path.name.startswith(".shard-") or any(path.name.startswith(f".{name}.") for name in names)))
    )  # fmt: skip


def _write_shards(expert: Expert, key: str, jobs: Sequence[ShardJob], clips: int, workers: int) -> None:
    from tqdm import tqdm

    todo = sum(len(job.audio) for job in jobs)
    with tqdm(total=clips, initial=clips - todo, desc=f"features {key}", unit="clip", mininterval=0.5, disable=todo == 0) as bar:
        if workers == 1 or len(jobs) < 2:
            for job in jobs:
                write_shard(expert, job)
                bar.update(len(job.audio))
            return
        from multiprocessing import get_context

        with ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_end_with_parent) as pool:
            futures = [pool.submit(_write_shard_in_worker, job) for job in jobs]
            try:
                for job, future in zip(jobs, futures, strict=True):
                    future.result()
                    bar.update(len(job.audio))
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise


def _end_with_parent() -> None:
    """A worker whose parent was killed would wait for work for ever."""
    from multiprocessing import parent_process

    parent = parent_process()

    def watch() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _write_shard_in_worker(job: ShardJob) -> None:
    write_shard(load_expert(job.implementation), job)


def write_shard(expert: Expert, job: ShardJob) -> None:
    """Compute what is missing of a shard and write it whole."""
    known = _known_clips(job)
    with _one_thread():
        new = {sha256: _describe(expert, job.key, sha256, path) for sha256, path in job.audio.items() if sha256 not in known}
    write_bytes(job.path, shard_bytes(job.fingerprint, {**known, **new}))


def _known_clips(job: ShardJob) -> dict[str, Clip]:
    """Clips that an older shard of the same expert holds."""
    try:
        shard = open_shard(job.path)
    except ExpertError:
        return {}
    if shard.fingerprint != job.fingerprint:
        return {}
    return {sha256: shard.slice(offset, shard.frames[sha256]) for sha256, offset in shard.offsets.items() if sha256 in job.audio}


def _describe(expert: Expert, key: str, sha256: str, path: Path) -> Clip:
    spec = expert.spec
    waveform = decode(path, sample_rate_hz=spec.sample_rate_hz)
    if sha256_file(path) != sha256:
        raise ExpertError(f"{path}: the audio is not the one that the manifest names", field="sha256", value=sha256,
                          next_step="run the corpus and contract stages again")  # fmt: skip
    features, mask = expert(waveform[None], np.array([len(waveform)], dtype=np.int64))
    if features.shape != (1, mask.shape[1], spec.dim) or mask.shape[0] != 1:
        raise ExpertError(f"expert {key} ({spec.implementation}) returned a wrong shape for {path}", field="features", value=features.shape,
                          allowed=f"[1, T, {spec.dim}] and a mask [1, T]")  # fmt: skip
    with np.errstate(over="ignore"):
        stored = features[0].astype(np.float16)
    bad = np.argwhere(~np.isfinite(stored))
    if len(bad):
        frame, dim = (int(i) for i in bad[0])
        raise ExpertError(
            f"expert {key} ({spec.implementation}) gave {len(bad)} values that are not finite in float16 for {path}; "
            f"the first at frame {frame} ({frame / spec.native_rate_hz:.2f} s), dimension {dim} ({spec.dim_names[dim]})",
            field=f"features.{key}",
            value=float(features[0, frame, dim]),
            allowed="finite, at most 65504 in size",
            next_step="listen to the clip, then mend the expert or set the clip aside; nothing of this shard was written",
        )
    return stored, mask[0]


def _publish(expert: Expert, mark: str, target: Path, shards: Sequence[str], training: Sequence[str]) -> None:
    """Write spec, normaliser and, last, the index - unless all three are there already, byte by byte."""
    opened = {name: open_shard(target / name) for name in shards}
    offsets = {name: shard.offsets for name, shard in opened.items()}
    clips = (opened[shard_name(s)].slice(offsets[shard_name(s)][s], opened[shard_name(s)].frames[s]) for s in training)
    normaliser = fit_normaliser(((features.astype(np.float32), mask) for features, mask in clips), expert.spec.dim)
    index = {
        sha256: {"shard": name, "offset": offset, "frames": opened[name].frames[sha256]}
        for name in shards for sha256, offset in offsets[name].items()
    }  # fmt: skip
    files = {
        SPEC: _json({"spec": expert.spec.to_json(), "fingerprint": mark}, indent=1),
        NORMALISER: normaliser.to_bytes(),
        INDEX: _json(index, indent=None),
    }
    if all((target / name).is_file() and (target / name).read_bytes() == data for name, data in files.items()):
        return
    (target / INDEX).unlink(missing_ok=True)
    for name, data in files.items():
        write_bytes(target / name, data)


def _json(value: object, *, indent: int | None) -> bytes:
    return (json.dumps(value, indent=indent, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n").encode()


@contextmanager
def _one_thread() -> Iterator[None]:
    """Hold BLAS to one thread: another number of threads may round sums differently."""
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    with threadpool_limits(1):
        yield
