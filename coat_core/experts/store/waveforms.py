"""Cache of decoded waveforms on disk, shared by the experts: each expert runs in its own process, and a clip is decoded once.

An entry is named by decoder, sample rate and the audio's SHA-256. It contains size and modification time of the hashed file: while both
are the same, the file is not hashed again; if either differs, it is decoded and hashed again. (A file replaced within the same
nanosecond by one of the same size is not detected.) An entry contains a checksum of its samples, so it needs no flush to disk: an entry
that a power failure damaged is decoded again.
"""

from __future__ import annotations

import json
import os
import tempfile
import threading
import time
import zlib
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from coat_core.corpus import audio
from coat_core.corpus.audio import decode
from coat_core.errors import ExpertError
from coat_core.hub import HEADROOM_BYTES, free_bytes
from coat_core.storage import sha256_file, sha256_json

CACHE_BYTES = 8 << 30
"""Approximate size limit of a workspace's cache, 37 hours at 16 kHz. A process measures the folder again when it has written 1/64 of it."""
_UNUSED_S = 24 * 3600.0
_HEADER = "waveform"
_LOCK = threading.Lock()


class Waveforms:
    """Reader of clips at one sample rate, with a cache. Several processes may share a folder, and several threads a reader.

    A full cache removes the entries of other decoders and entries that were not read for a day. If it is still full, it accepts no new
    entries. The oldest entries are not removed: every expert reads the corpus in the same order and would find its next entry removed.

    Args:
        sample_rate_hz: sample rate of the waveforms.
        folder: folder of the cache; None: no cache.
        limit_bytes: size limit of the folder.
    """

    def __init__(self, sample_rate_hz: int, folder: Path | None = None, limit_bytes: int = CACHE_BYTES) -> None:
        self.sample_rate_hz, self.folder, self.limit_bytes = sample_rate_hz, folder, limit_bytes
        self._free: int | None = None
        self._written = 0

    def read(self, sha256: str, path: Path) -> NDArray[np.float32]:
        """Return a clip as mono float32 `[N]`, bitwise equal to the result of `decode`.

        Raises:
            AudioError: the file is missing or cannot be decoded.
            ExpertError: the hash of the file differs from `sha256`.
        """
        found = _state(path)
        if self.folder is not None and found is not None:
            cached = _load(self._entry(sha256), found)
            if cached is not None:
                return cached
        waveform = decode(path, sample_rate_hz=self.sample_rate_hz)
        if sha256_file(path) != sha256:
            raise ExpertError(f"{path}: the SHA-256 of the audio differs from the manifest", field="sha256", value=sha256,
                              next_step="run the corpus and contract stages again")  # fmt: skip
        if self.folder is not None and found is not None and found == _state(path):
            self._write_entry(self._entry(sha256), waveform, found)
        return waveform

    def _entry(self, sha256: str) -> Path:
        assert self.folder is not None
        return self.folder / f"{_decoder()}-{self.sample_rate_hz}" / sha256[:2] / f"{sha256}.safetensors"

    def _write_entry(self, entry: Path, waveform: NDArray[np.float32], found: tuple[int, int]) -> None:
        """Write a complete entry, if there is room; errors of the file system are ignored."""
        from safetensors.numpy import save

        header = {"size": found[0], "mtime_ns": found[1], "crc32": zlib.crc32(waveform.tobytes())}
        data = save({_HEADER: waveform}, metadata={_HEADER: json.dumps(header)})
        temporary: Path | None = None
        try:
            with _LOCK:
                if not self._has_room(len(data)):
                    return
            entry.parent.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(dir=entry.parent, prefix=f".{entry.name}.")
            temporary = Path(name)
            with os.fdopen(handle, "wb") as stream:
                stream.write(data)
            temporary.replace(entry)
        except BaseException as error:
            if temporary is not None:
                temporary.unlink(missing_ok=True)
            if not isinstance(error, OSError):
                raise

    def _has_room(self, size: int) -> bool:
        if self._free is None or self._written > self.limit_bytes // 64:
            assert self.folder is not None
            kept = self._prune(max(size, self.limit_bytes // 64))
            # Free disk space is reserved for features.
            self._free, self._written = min(self.limit_bytes - kept, free_bytes(self.folder) - HEADROOM_BYTES), 0
        if size > self._free:
            return False
        self._free -= size
        self._written += size
        return True

    def _prune(self, wanted: int) -> int:
        """Remove entries of other decoders and unused entries until `wanted` bytes fit; return the size of the remaining entries."""
        assert self.folder is not None
        entries = []
        for place, _, names in os.walk(self.folder):
            for name in names:
                path = Path(place) / name
                try:
                    state = path.stat()
                except FileNotFoundError:
                    continue  # another process removed it
                entries.append((path.parent.parent.name.startswith(_decoder()), state.st_mtime, state.st_size, path))
        total = sum(entry[2] for entry in entries)
        now = time.time()
        for current, read_at, size, path in sorted(entries):
            abandoned = path.name.startswith(".") and now - read_at > 3600
            if abandoned or (total + wanted > self.limit_bytes and (not current or now - read_at > _UNUSED_S)):
                path.unlink(missing_ok=True)
                total -= size
        return total


def _state(path: Path) -> tuple[int, int] | None:
    """Return size and modification time (ns) of a file, or None if it is missing."""
    try:
        state = path.stat()
    except OSError:
        return None
    return state.st_size, state.st_mtime_ns


def _load(entry: Path, found: tuple[int, int]) -> NDArray[np.float32] | None:
    """Return the samples of an entry, or None if it is missing, invalid, or of another state of the file."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(entry, framework="numpy") as reader:
            header = json.loads(reader.metadata()[_HEADER])
            if (header["size"], header["mtime_ns"]) != found:
                return None
            waveform = np.array(reader.get_tensor(_HEADER))
        if waveform.dtype != np.float32 or waveform.ndim != 1 or zlib.crc32(waveform.tobytes()) != header["crc32"]:
            return None
        os.utime(entry)
    except (OSError, SafetensorError, KeyError, TypeError, ValueError):
        return None
    return waveform


@cache
def _decoder() -> str:
    """Return an identifier of the decoder: a hash of its code and of the versions of its libraries."""
    import soundfile
    import soxr

    versions = [soundfile.__version__, soundfile.__libsndfile_version__, soxr.__version__, soxr.__libsoxr_version__, np.__version__]
    code = [Path(audio.__file__), *sorted((Path(audio.__file__).parent / "containers").glob("*.py"))]
    return sha256_json([*map(sha256_file, code), *versions])[:12]
