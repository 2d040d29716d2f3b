"""Clips of imported rows: copies of whole files, and segments. Each file that rows cut is decoded once."""

from __future__ import annotations

import shutil
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from coat_core.corpus.audio import AudioFacts, AudioHeader, measure, read_header, read_samples
from coat_core.corpus.imported.lines import Line, Mistakes, Row
from coat_core.corpus.imported.segments import MAX_SOURCE_CHANNELS, MAX_SOURCE_S, cut, encode, suffix_of
from coat_core.errors import AudioError
from coat_core.progress import ProgressBar
from coat_core.storage import sha256_bytes, sha256_file


@dataclass(frozen=True)
class Clip:
    """The audio of one row."""

    audio: str
    """Path relative to the corpus folder."""
    sha256: str
    source_sha256: str
    """SHA-256 of the file that the row names; that of the clip unless it was cut."""
    duration_s: float
    """The duration that the row states for a whole file, else the measured one; 0 for unreadable audio, which the contract reports."""
    sample_rate_hz: int
    cut: bool


def store_clips(lines: Sequence[Line], rows: Sequence[Row], corpus: Path, mistakes: Mistakes) -> list[Clip | None]:
    """Store the audio of all rows in `corpus/audio`. Equal clips are stored once. An error gives None and is added to `mistakes`.

    Args:
        lines: the lines of the rows, for messages.
        rows: checked rows with `path`, and with `segment` for a part of the file.
        corpus: the corpus folder.
        mistakes: receives the errors.
    """
    by_file: dict[Path, list[int]] = defaultdict(list)
    for number, row in enumerate(rows):
        by_file[row["path"]].append(number)
    clips: list[Clip | None] = [None] * len(rows)
    for path, numbers in ProgressBar(by_file.items(), desc="corpus", unit="file", disable=None):
        try:
            source = _Source(path, corpus)
        except OSError as error:
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
            except (OSError, ValueError) as error:
                mistakes.add_line(lines[number], f"audio {path.name!r}: {error}")
    return clips


class _Source:
    """One file that rows name, read when a row needs it."""

    def __init__(self, path: Path, corpus: Path) -> None:
        self._path, self._corpus = path, corpus
        self._digest = sha256_file(path)
        self._facts: AudioFacts | None = None
        self._samples: tuple[AudioHeader, NDArray[np.float32]] | AudioError | None = None
        self._rate: int | None = None

    def whole(self, row: Row) -> Clip:
        """Copy the file and return its clip."""
        name = f"audio/{self._digest[:24]}{suffix_of(self._path)}"
        if not (self._corpus / name).exists():
            shutil.copyfile(self._path, self._corpus / name)
        if "duration" in row and "segment" not in row:
            return Clip(name, self._digest, self._digest, row["duration"], self._header_rate(), cut=False)
        if self._facts is None:
            self._facts = measure(self._path)
        return Clip(name, self._digest, self._digest, self._facts.duration_s or 0.0, self._facts.sample_rate_hz or 0, cut=False)

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
        return Clip(name, digest, self._digest, stated or part.shape[0] / header.sample_rate_hz, header.sample_rate_hz, cut=True)

    def check_facts(self, row: Row) -> None:
        """Refuse a row that states another sample rate or number of channels than the file has.

        Raises:
            ValueError: they differ.
        """
        if not {"sample_rate_hz", "channels"} & set(row):
            return
        try:
            header = read_header(self._path)
        except AudioError:
            return  # The contract reports the file.
        for name, found in (("sample_rate_hz", header.sample_rate_hz), ("channels", header.channels)):
            if name in row and row[name] != found:
                raise ValueError(f"the row states {name} {row[name]:g}, the file has {found}; audio is not converted: correct or remove it")

    def _header_rate(self) -> int:
        if self._rate is None:
            try:
                self._rate = read_header(self._path).sample_rate_hz
            except AudioError:
                self._rate = 0
        return self._rate

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
