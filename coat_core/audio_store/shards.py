"""The shards of an audio store: audio embeddings of clips, in the tower's data type, and the length of each clip."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from coat_core.errors import AudioStoreError
from coat_core.shards import shard as files
from coat_core.shards.shard import Shard, shard_metadata


class Clip(NamedTuple):
    """What is stored of one clip."""

    audio: Tensor
    """Audio embeddings `[A, D]`."""
    samples: int
    """Samples of the clip at 16 kHz."""


def shard_bytes(fingerprint: str, clips: Mapping[str, Clip]) -> bytes:
    """Return the content of a shard's file; the order of `clips` does not change it."""
    from safetensors.torch import save

    ordered = sorted(clips)
    tensors = {
        "audio": torch.cat([clips[sha256].audio for sha256 in ordered]),
        "samples": torch.tensor([clips[sha256].samples for sha256 in ordered]),
    }
    data: bytes = save(tensors, metadata=shard_metadata(fingerprint, {sha256: len(clips[sha256].audio) for sha256 in ordered}))
    return data


def open_shard(path: Path) -> Shard:
    """Memory-map a shard.

    Raises:
        AudioStoreError: the file is missing, truncated or not a shard.
    """
    try:
        shard = files.open_shard(path, ("audio",), "pt")
        if shard.reader.get_slice("samples").get_shape() != [len(shard.frames)]:
            raise ValueError("clips and header do not match")
    except ValueError as error:
        raise AudioStoreError(
            f"cannot read a shard: {error}", field="shard", value=str(path), next_step=f"run `coat audio {path.parent.name}` again"
        ) from error
    return shard


def read_audio(shard: Shard, offset: int, tokens: int) -> Tensor:
    """Return audio embeddings `[tokens, D]` from token `offset` on, read from the memory map."""
    audio: Tensor = shard.frames_of("audio", offset, tokens)
    return audio


def read_samples(shard: Shard) -> dict[str, int]:
    """Return the samples of each clip by audio hash."""
    return dict(zip(shard.frames, shard.reader.get_tensor("samples").tolist(), strict=True))
