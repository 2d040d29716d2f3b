"""Extraction: run a backbone's audio tower once on every clip of a corpus, shard by shard, resumable at any time.

The folder of the store is updated in place (`coat_core.shards.update`): clips of the same fingerprint are reused.
Each clip is computed alone, so the bytes of a store depend neither on the number of interrupted runs nor on the order of new clips.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch

from coat_core.audio_store.shards import Clip, open_shard, read_audio, read_samples, shard_bytes
from coat_core.audio_store.store import IDENTITY, INDEX
from coat_core.audio_store.tower import Tower, tensor_bytes, tower_error, tower_of, tower_output
from coat_core.backbones.base import SAMPLE_RATE_HZ, Backbone
from coat_core.corpus.examples import Example, longest_durations
from coat_core.device import explain_out_of_memory
from coat_core.errors import AudioStoreError
from coat_core.experts.store.fingerprint import fixed_sound
from coat_core.experts.store.waveforms import Waveforms
from coat_core.progress import ProgressBar
from coat_core.shards.index import Entry, index_bytes, json_bytes
from coat_core.shards.layout import layout_of
from coat_core.shards.shard import Shard
from coat_core.shards.update import ShardUpdate, begin_update, publish
from coat_core.storage import sha256_bytes, sha256_json, write_bytes


def extract_audio(
    backbone: Backbone, examples: Sequence[Example], corpus: Path, target: Path, *, waveforms: Path | None = None, progress: bool = True
) -> None:
    """Create or update the store at `target` for the examples' audio.

    Args:
        backbone: the LALM; torch's number of threads is the number of threads of the computation.
        examples: all examples of all splits; the tower runs once for each distinct audio file.
        corpus: folder that the examples' paths are relative to.
        target: folder of the store, created or updated in place.
        waveforms: folder of the cache of decoded waveforms, shared with the experts; None: no cache.
        progress: whether to show a progress bar.

    Raises:
        AudioStoreError: there are no examples.
        BackboneError: an output of the tower is not finite; the clip is named, and neither its shard nor an index is written.
        ExpertError: the hash of a file differs from the manifest.
        AudioError: a file cannot be decoded.
        OutOfMemoryError: the device has too little memory for one clip.
    """
    if not examples:
        raise AudioStoreError("there are no clips", field="examples", value=0, next_step="run the corpus and contract stages")
    ordered = sorted(examples, key=lambda example: (example.sha256, example.audio), reverse=True)
    of_clip = {example.sha256: example for example in ordered}
    tower = tower_of(backbone)
    fingerprint = fingerprint_of(backbone, tower)
    frame_bytes = backbone.hidden_size * backbone.embedding.weight.element_size()
    layout = layout_of(longest_durations(examples), backbone.audio_token_rate_hz, frame_bytes)
    groups = layout.group({sha256: corpus / example.audio for sha256, example in of_clip.items()})
    update = begin_update(target, [_Job(target / name, fingerprint, audio) for name, audio in groups.items()], (IDENTITY, INDEX))
    read = Waveforms(SAMPLE_RATE_HZ, waveforms).read
    device = backbone.embedding.weight.device
    missing = sum(len(job.missing()) for job in update.stale)
    with ProgressBar(
        total=len(of_clip), initial=len(of_clip) - missing, desc=f"audio {backbone.key}", unit="clip", mininterval=0.5,
        disable=missing == 0 or not progress,
    ) as bar:  # fmt: skip
        for job in update.stale:
            clips = job.known()
            for sha256 in job.missing():
                waveform = read(sha256, job.audio[sha256])
                with explain_out_of_memory(device, partial(tower_error, of_clip[sha256])):
                    clips[sha256] = Clip(tower_output(backbone, waveform, of_clip[sha256].audio), len(waveform))
                bar.update()
            write_bytes(job.path, shard_bytes(fingerprint, clips))
            update.written(job)
    _publish(target, tower, fingerprint, list(groups))


def fingerprint_of(backbone: Backbone, tower: Tower) -> str:
    """Return the SHA-256 of what the last bits of stored values depend on; clips of an earlier run are reused only if it is equal.

    On a CPU it includes the output for a fixed sound, after decoding and resampling: a change of the decoder, a library or the code
    changes it, a comment does not. On an accelerator the name of the device and the version of torch replace this output.
    """
    weight, model = backbone.embedding.weight, cast(Any, backbone.model)
    if weight.device.type == "cpu":
        behaviour = sha256_bytes(tensor_bytes(tower_output(backbone, fixed_sound(SAMPLE_RATE_HZ), "the fixed sound")))
    else:
        behaviour = f"{torch.cuda.get_device_name(weight.device)}, torch {torch.__version__}"
    attention, threads = model.config._attn_implementation, torch.get_num_threads()
    return sha256_json({"tower": tower.to_json(), "attention": attention, "threads": threads, "behaviour": behaviour})


@dataclass(frozen=True)
class _Job(ShardUpdate):
    """A shard to be written: its clips, and those of older shards of the same fingerprint, which are reused."""

    def open(self, path: Path) -> Shard:
        return open_shard(path)

    def known(self) -> dict[str, Clip]:
        """Return the clips that are in older shards."""
        found: dict[str, Clip] = {}
        for shard in self.older():
            samples, offsets = read_samples(shard), shard.offsets
            for sha256, tokens in shard.frames.items():
                if sha256 in self.audio and sha256 not in found:
                    found[sha256] = Clip(read_audio(shard, offsets[sha256], tokens), samples[sha256])
        return found


def _publish(target: Path, tower: Tower, fingerprint: str, shards: Sequence[str]) -> None:
    """Write the tower's identity and, last, the index, unless both files exist with the same bytes."""

    def entries() -> Iterator[tuple[str, Entry]]:
        for name in shards:
            shard = open_shard(target / name)
            samples, offsets = read_samples(shard), shard.offsets
            for sha256, tokens in shard.frames.items():
                yield sha256, {"shard": name, "offset": offsets[sha256], "tokens": tokens, "samples": samples[sha256]}

    publish(target, {IDENTITY: json_bytes({"tower": tower.to_json(), "fingerprint": fingerprint}), INDEX: index_bytes(entries())})
