"""Clips of imported rows: copies of whole files, and segments. Each file that rows cut is decoded once."""

from __future__ import annotations

import errno
import os
import shutil
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from coat_core.corpus.audio import AudioHeader, measure, read_header, read_samples
from coat_core.corpus.imported.lines import Line, Mistakes, Row
from coat_core.corpus.imported.segments import MAX_SOURCE_CHANNELS, MAX_SOURCE_S, ROUNDING_S, cut, encode, suffix_of
from coat_core.errors import AudioError
from coat_core.progress import ProgressBar
from coat_core.storage import sha256_bytes, sha256_file

_OF_THE_FILE = frozenset((errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EACCES, errno.EPERM, errno.ELOOP, errno.ENAMETOOLONG))
"""What opening a file says if the row names a wrong one."""


@dataclass(frozen=True, slots=True)
class Clip:
    """The audio of one row."""

    audio: str
    """Path relative to the corpus folder."""
    sha256: str
    source_sha256: str
    """SHA-256 of the file that the row names; that of the clip unless it was cut."""
    duration_s: float
    """The measured duration, or the one that the row states for a whole file if it is another one than the measured, rounded: the contract
    reports it. It is 0 for unreadable audio, which the contract reports too."""
    sample_rate_hz: int
    cut: bool


def store_clips(lines: Sequence[Line], rows: Sequence[Row], corpus: Path, mistakes: Mistakes) -> list[Clip | None]:
    """Store the audio of all rows in `corpus/audio`. Equal clips are stored once. An error gives None and is added to `mistakes`.

    Args:
        lines: the lines of the rows, for messages.
        rows: checked rows with `path`, and with `segment` for a part of the file.
        corpus: the corpus folder.
        mistakes: receives the errors.

    Raises:
        OSError: a file failed for a reason that is no mistake of a row: the disk is full, a device fails, too many files are open.
    """
    by_file: dict[Path, list[int]] = defaultdict(list)
    for number, row in enumerate(rows):
        by_file[row["path"]].append(number)
    clips: list[Clip | None] = [None] * len(rows)
    for path, numbers in ProgressBar(by_file.items(), desc="corpus", unit="file", disable=None):
        try:
            source = _Source(path, corpus)
        except OSError as error:
            if not _is_of_the_file(error, path):
                raise
            for number in numbers:
                mistakes.add_line(lines[number], f"audio {path.name!r} cannot be read: {error.strerror}")
            continue
        # The samples of one file at a time are in memory.
        for number in numbers:
            try:
                source.check_facts(rows[number])
                clips[number] = source.segment(rows[number]) if "segment" in rows[number] else source.whole(rows[number])
            except AudioError as error:
                mistakes.add_line(lines[number], f"a segment of audio {path.name!r} cannot be cut: {error}")
            except OSError as error:
                if not _is_of_the_file(error, path):
                    raise
                mistakes.add_line(lines[number], f"audio {path.name!r} cannot be read: {error.strerror}")
            except ValueError as error:
                mistakes.add_line(lines[number], f"audio {path.name!r}: {error}")
    return clips


def _is_of_the_file(error: OSError, path: Path) -> bool:
    return error.errno in _OF_THE_FILE and error.filename is not None and Path(os.fsdecode(error.filename)) == path


class _Source:
    """One file that rows name, read when a row needs it."""

    def __init__(self, path: Path, corpus: Path) -> None:
        self._path, self._corpus = path, corpus
        self._digest = sha256_file(path)
        self._samples: tuple[AudioHeader, NDArray[np.float32]] | AudioError | None = None
        self._known: tuple[float, int] | None = None

    def whole(self, row: Row) -> Clip:
        """Copy the file and return its clip."""
        name = f"audio/{self._digest[:24]}{suffix_of(self._path)}"
        if not (self._corpus / name).exists():
            shutil.copyfile(self._path, self._corpus / name)
        length_s, rate = self._length()
        stated = row.get("duration", length_s) if "segment" not in row else length_s
        return Clip(name, self._digest, self._digest, length_s if abs(stated - length_s) <= ROUNDING_S else stated, rate, cut=False)

    def segment(self, row: Row) -> Clip:
        """Cut the segment of a row and return its clip; the whole file if the segment is the whole file."""
        header, samples = self._decoded()
        part = cut(samples, header.sample_rate_hz, row["segment"])
        if part is None:
            return self.whole(row)
        data, suffix = encode(part, header.sample_rate_hz)
        digest = sha256_bytes(data)
        name = f"audio/{digest[:24]}{suffix}"
        if not (self._corpus / name).exists():
            (self._corpus / name).write_bytes(data)
        stated = row.get("duration") if row["segment"].whole_time else None
        length_s = part.shape[0] / header.sample_rate_hz
        if stated is not None and abs(stated - length_s) > ROUNDING_S:
            length_s = stated
        return Clip(name, digest, self._digest, length_s, header.sample_rate_hz, cut=True)

    def check_facts(self, row: Row) -> None:
        """Refuse a row that states another sample rate, number of channels or number of samples per channel than the file has.

        Raises:
            ValueError: they differ.
        """
        if not {"sample_rate_hz", "channels", "num_samples"} & set(row):
            return
        try:
            header = read_header(self._path)
        except AudioError:
            return  # The contract reports the file.
        facts = ("sample_rate_hz", header.sample_rate_hz), ("channels", header.channels), ("num_samples", header.frames)
        for name, found in facts:
            if name in row and row[name] != found:
                raise ValueError(
                    f"the row states {name} {row[name]:.12g}, the file has {found}; audio is not converted: correct or remove it"
                )

    def _length(self) -> tuple[float, int]:
        """Return the duration in seconds and the sample rate of the whole file; zeros if it is unreadable."""
        if self._known is None:
            try:
                header = read_header(self._path)
                self._known = header.duration_s, header.sample_rate_hz
                if not header.lossless:
                    self._known = measure(self._path).duration_s or 0.0, header.sample_rate_hz
            except AudioError:
                self._known = 0.0, 0
        return self._known

    def _decoded(self) -> tuple[AudioHeader, NDArray[np.float32]]:
        """Return header and samples `[N, channels]`. The file is decoded at the first call.

        Raises:
            AudioError: the file cannot be decoded.
        """
        if self._samples is None:
            try:
                self._samples = read_samples(self._path, max_duration_s=MAX_SOURCE_S, max_channels=MAX_SOURCE_CHANNELS)
            except AudioError as error:
                self._samples = error
        if isinstance(self._samples, AudioError):
            raise self._samples
        return self._samples
