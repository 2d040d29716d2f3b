"""Extraction: run one expert over every clip of a corpus, shard by shard, resumable at any time.

The folder of the store is updated in place. A complete shard of the same expert and the same clips is kept; of any other shard, the
clips of the same expert are reused. Files left by a killed run are removed. The index is removed before any change and written
last, so the bytes of a store do not depend on the number of interrupted runs.

`computation` computes the features, and `plan` selects the batches of a neural expert. A clip that is added to a finished store is
computed in a batch of new clips, not in the batch of a new store: its features may then differ from those of a new store in the last bit
of float16.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from coat_core.corpus.examples import Example, longest_durations
from coat_core.errors import ExpertError
from coat_core.experts.base import Expert, ExpertSpec
from coat_core.experts.catalogue import NEURAL, load_expert
from coat_core.experts.store.computation import one_thread, write_acoustic, write_neural
from coat_core.experts.store.fingerprint import acoustic_fingerprint, neural_fingerprint
from coat_core.experts.store.plan import PLAN, begin_plan
from coat_core.experts.store.shards import ShardJob, open_shard, read_clip
from coat_core.experts.store.store import INDEX, NORMALISER, SPEC, fit_normaliser
from coat_core.progress import ProgressBar
from coat_core.settings import ExpertSettings
from coat_core.shards.index import Entry, index_bytes, json_bytes
from coat_core.shards.layout import layout_of
from coat_core.shards.update import begin_update, publish


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
    durations = longest_durations(examples)
    layout = layout_of(durations, model.spec.native_rate_hz, _frame_bytes(model.spec))
    clips_of_shard = layout.group(audio)
    jobs = [ShardJob(target / name, expert_fingerprint, clips, key, settings, waveforms) for name, clips in clips_of_shard.items()]
    update = begin_update(target, jobs, (SPEC, NORMALISER, PLAN, INDEX))
    with _progress(key, update.stale, len(audio)) as bar:

        def written(job: ShardJob) -> None:
            update.written(job)
            bar.update(len(job.audio))

        if neural:
            missing = [sha256 for job in update.stale for sha256 in job.missing()]
            seconds = settings.seconds_per_batch(model.spec.sample_rate_hz)
            plan = begin_plan(target, expert_fingerprint, durations, missing, seconds, layout)
            write_neural(model, plan, update.stale, audio, threads, written)
        else:
            write_acoustic(model, update.stale, written)
    (target / PLAN).unlink(missing_ok=True)
    _publish(model, expert_fingerprint, target, list(clips_of_shard), set(training))


def _frame_bytes(spec: ExpertSpec) -> int:
    """Return the bytes of a frame in a shard: features in float16, and the mask."""
    return 2 * spec.dim + 1


def _progress(key: str, jobs: Sequence[ShardJob], clips: int) -> ProgressBar:
    todo = sum(len(job.audio) for job in jobs)
    return ProgressBar(total=clips, initial=clips - todo, desc=f"features {key}", unit="clip", mininterval=0.5, disable=todo == 0)


def _publish(expert: Expert, expert_fingerprint: str, target: Path, shards: Sequence[str], training: Collection[str]) -> None:
    """Write spec, normaliser and, last, the index, unless all three files exist with the same bytes. One shard at a time is open."""

    def entries() -> Iterator[tuple[str, Entry]]:
        for name in shards:
            shard = open_shard(target / name)
            for sha256, offset in shard.offsets.items():
                yield sha256, {"shard": name, "offset": offset, "frames": shard.frames[sha256]}

    def training_clips() -> Iterator[tuple[NDArray[np.float32], NDArray[np.bool_]]]:
        for name in shards:
            shard = open_shard(target / name)
            for sha256, offset in shard.offsets.items():
                if sha256 in training:
                    features, mask = read_clip(shard, offset, shard.frames[sha256])
                    yield features.astype(np.float32), mask

    normaliser = fit_normaliser(training_clips(), expert.spec.dim)
    identity = {"spec": expert.spec.to_json(), "fingerprint": expert_fingerprint}
    publish(target, {SPEC: json_bytes(identity), NORMALISER: normaliser.to_bytes(), INDEX: index_bytes(entries())})
