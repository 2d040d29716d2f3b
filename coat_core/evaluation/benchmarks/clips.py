"""The clips of a benchmark: files below its folder, or bytes in a column of its Parquet files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from coat_core.errors import EvaluationError
from coat_core.evaluation.benchmarks.data import Layout
from coat_core.evaluation.benchmarks.items import BenchmarkItem

SUFFIXES = (".wav", ".flac", ".mp3", ".ogg", ".opus")
"""Suffixes that are tried where the published clip is a video, or was converted."""
_SIGNATURES = {b"RIFF": ".wav", b"fLaC": ".flac", b"OggS": ".ogg", b"ID3": ".mp3"}
_SHOWN = 3


def find_clips(items: Sequence[BenchmarkItem], folder: Path, layout: Layout) -> dict[str, Path]:
    """Return item id → file of the clip, for items whose clip is a file.

    A clip is at its published path, at that path without its first folder (a folder that was itself unpacked as `Foundation/`), or there
    with another suffix of audio.

    Raises:
        EvaluationError: clips are missing; the message counts them, names the first and says from where to fetch them.
    """
    found, missing = {}, []
    for item in items:
        path = find_clip(folder, item.audio)
        if path is None:
            missing.append(item.audio or f"that of item {item.id}")
        else:
            found[item.id] = path
    if missing:
        raise EvaluationError(
            f"{len(missing)} of {len(items)} clips are missing", field="data", value=[*missing[:_SHOWN], *["…"] * (len(missing) > _SHOWN)],
            allowed=f"{layout.audio or 'the published paths'} below {folder}",
            next_step=f"fetch them from {layout.origin} into this folder",
        )  # fmt: skip
    return found


def find_clip(folder: Path, audio: str) -> Path | None:
    """Return the file of a clip below a folder; None if there is none."""
    if not audio:
        return None
    published = Path(audio)
    for path in (published, Path(*published.parts[1:])):
        if path.is_absolute() or ".." in path.parts or not path.name:
            continue
        for candidate in (path, *(path.with_suffix(suffix) for suffix in SUFFIXES)):
            # A video is no clip, although it is the published file.
            if candidate.suffix.lower() in SUFFIXES and (folder / candidate).is_file():
                return folder / candidate
    return None


def embedded_clips(files: Sequence[Path], layout: Layout) -> Iterator[bytes | str | None]:
    """Yield what the Parquet files have in the column of the clips, row by row: bytes, the path of a file, or None.

    Rows are read in groups, so that memory is needed for one group.

    Raises:
        EvaluationError: a file has no such column.
    """
    import pyarrow.parquet

    for path in files:
        table = pyarrow.parquet.ParquetFile(path)
        if layout.embedded not in table.schema_arrow.names:
            raise EvaluationError(
                f"{path.name} has no column {layout.embedded!r} with clips", field="data", value=table.schema_arrow.names,
                next_step=f"fetch the file again from {layout.origin}",
            )  # fmt: skip
        for batch in table.iter_batches(batch_size=64, columns=[layout.embedded]):
            for cell in batch.column(0).to_pylist():
                yield _content(cell)


def suffix_of(data: bytes) -> str:
    """Return the suffix of audio bytes by their first bytes; `.mp3` if none is known (an MP3 file may begin with a frame)."""
    return next((suffix for start, suffix in _SIGNATURES.items() if data.startswith(start)), ".mp3")


def _content(cell: Any) -> bytes | str | None:
    if isinstance(cell, Mapping):
        return cell.get("bytes") or cell.get("path")
    return cell if isinstance(cell, bytes | str) else None
