"""A shard to be written: what lies there already and still counts, and what is missing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from coat_core.errors import ExpertError
from coat_core.experts.store.shard import Clip, open_shard, shard_bytes
from coat_core.settings import ExpertSettings
from coat_core.storage import write_bytes


@dataclass(frozen=True)
class ShardJob:
    """One shard of one expert's store."""

    key: str
    settings: ExpertSettings
    fingerprint: str
    path: Path
    audio: Mapping[str, Path]
    """Audio file by SHA-256."""
    cache: Path | None
    """Folder of decoded waveforms."""

    def is_current(self) -> bool:
        """Say whether the shard on disk was made by the same expert from the same clips."""
        try:
            shard = open_shard(self.path)
        except ExpertError:
            return False
        return shard.fingerprint == self.fingerprint and list(shard.frames) == sorted(self.audio)

    def missing(self) -> list[str]:
        """Return the hashes of the clips that no older shard of the same expert holds; only its header is read."""
        try:
            shard = open_shard(self.path)
        except ExpertError:
            return sorted(self.audio)
        return sorted(set(self.audio) - set(shard.frames)) if shard.fingerprint == self.fingerprint else sorted(self.audio)

    def known(self) -> dict[str, Clip]:
        """Return the clips that an older shard of the same expert holds."""
        try:
            shard = open_shard(self.path)
        except ExpertError:
            return {}
        if shard.fingerprint != self.fingerprint:
            return {}
        return {sha256: shard.slice(offset, shard.frames[sha256]) for sha256, offset in shard.offsets.items() if sha256 in self.audio}

    def write(self, clips: Mapping[str, Clip]) -> None:
        """Write the shard whole."""
        write_bytes(self.path, shard_bytes(self.fingerprint, {sha256: clips[sha256] for sha256 in self.audio}))
