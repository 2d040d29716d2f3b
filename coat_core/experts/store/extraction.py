"""Extraction: run one expert over every clip of a corpus, shard by shard, resumable at any time.

The folder of the store is updated in place. A complete shard of the same expert and the same clips is kept; of any other shard, the
clips of the same expert are reused. Files left by a killed run are removed. The index is removed before any change and written
last, so the bytes of a store do not depend on the number of interrupted runs.

`computation` computes the features, and `plan` selects the batches of a neural expert. A clip that is added to a finished store is
computed in a batch of new clips, not in the batch of a new store: its features may then differ from those of a new store in the last bit
of float16.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from coat_core.corpus.examples import Example
from coat_core.errors import ExpertError
from coat_core.experts.base import Expert
from coat_core.experts.catalogue import NEURAL, load_expert
from coat_core.experts.store.computation import one_thread, write_acoustic, write_neural
from coat_core.experts.store.fingerprint import acoustic_fingerprint, neural_fingerprint
from coat_core.experts.store.plan import PLAN, begin_plan
from coat_core.experts.store.shards import ShardJob, open_shard, read_clip
from coat_core.experts.store.store import INDEX, NORMALISER, SPEC, fit_normaliser
from coat_core.settings import ExpertSettings
from coat_core.shards import begin_update, group_by_shard, json_bytes, publish, shard_name


def extract_features(
    key: str,
    expert: ExpertSettings | str,
    examples: Sequence[Example],
    corpus: Path,
    target: Path,
    *,
    threads: int = 1,
    waveforms: Path | None = None,
) -> None:
    """Create or update the store at `target` for the examples' audio.

    Args:
        key: the expert's key in params, for messages and the progress bar.
        expert: its section of params, or the name of an implementation with default settings.
        examples: all examples of all splits; each distinct audio file is read once.
        corpus: folder that the examples' paths are relative to.
        target: folder of the store, created or updated in place.
        threads: number of batches that a neural expert computes at once on a CPU; the result does not depend on it.
        waveforms: folder of the cache of decoded waveforms, shared by experts; None: no cache.

    Raises:
        ExpertError: no expert has this name, there is no training audio, the hash of a file differs from the manifest, or a feature is
            not finite in float16 (the message names expert, clip, frame and dimension; neither the shard nor an index is written).
        CheckpointError: a neural expert's checkpoint is not on this disk and cannot be downloaded.
        OutOfMemoryError: the device has too little memory for a batch.
        AudioError: a file cannot be decoded.
    """
    settings = ExpertSettings(implementation=expert) if isinstance(expert, str) else expert
    ordered = sorted(examples, key=lambda e: (e.sha256, e.audio), reverse=True)
    audio = {example.sha256: corpus / example.audio for example in ordered}
    training = sorted({example.sha256 for example in examples if example.split == "train"})
    if not training:
        raise ExpertError(
            "there is no training audio for the normaliser", field="split", value="train", next_step="add clips to the training split"
        )
    model, neural = load_expert(settings.implementation, settings), settings.implementation in NEURAL
    if neural:
        expert_fingerprint = neural_fingerprint(model, settings)
    else:
        with one_thread():
            expert_fingerprint = acoustic_fingerprint(model)
    clips_of_shard = group_by_shard(audio)
    jobs = [ShardJob(key, settings, expert_fingerprint, target / name, clips, waveforms) for name, clips in clips_of_shard.items()]
    stale = begin_update(target, jobs, (SPEC, NORMALISER, PLAN, INDEX))
    with _progress(key, stale, len(audio)) as done:
        if neural:
            durations = {example.sha256: example.duration_s for example in ordered}
            missing = [sha256 for job in stale for sha256 in job.missing()]
            plan = begin_plan(target, expert_fingerprint, durations, missing, settings.seconds_per_batch(model.spec.sample_rate_hz))
            write_neural(model, plan, stale, audio, threads, done)
        else:
            write_acoustic(model, stale, done)
    (target / PLAN).unlink(missing_ok=True)
    _publish(model, expert_fingerprint, target, sorted(clips_of_shard), training)


@contextmanager
def _progress(key: str, jobs: Sequence[ShardJob], clips: int) -> Iterator[Callable[[int], object]]:
    from coat_core.progress import ProgressBar

    todo = sum(len(job.audio) for job in jobs)
    with ProgressBar(total=clips, initial=clips - todo, desc=f"features {key}", unit="clip", mininterval=0.5, disable=todo == 0) as bar:
        yield bar.update


def _publish(expert: Expert, expert_fingerprint: str, target: Path, shards: Sequence[str], training: Sequence[str]) -> None:
    """Write spec, normaliser and, last, the index, unless all three files exist with the same bytes."""
    opened = {name: open_shard(target / name) for name in shards}
    offsets = {name: shard.offsets for name, shard in opened.items()}
    clips = (read_clip(opened[shard_name(s)], offsets[shard_name(s)][s], opened[shard_name(s)].frames[s]) for s in training)
    normaliser = fit_normaliser(((features.astype(np.float32), mask) for features, mask in clips), expert.spec.dim)
    index = {
        sha256: {"shard": name, "offset": offset, "frames": opened[name].frames[sha256]}
        for name in shards for sha256, offset in offsets[name].items()
    }  # fmt: skip
    identity = {"spec": expert.spec.to_json(), "fingerprint": expert_fingerprint}
    publish(
        target,
        {SPEC: json_bytes(identity, indent=1), NORMALISER: normaliser.to_bytes(), INDEX: json_bytes(index, indent=None)},
    )
