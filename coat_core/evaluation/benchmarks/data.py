"""Data folders of benchmarks: files that must be there, their rows, and messages that say what to fetch and from where."""

from __future__ import annotations

import csv
import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coat_core.errors import EvaluationError
from coat_core.evaluation.benchmarks.places import HUB

Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Layout:
    """The published files of a benchmark.

    Attributes:
        files: split → names of its annotation files below the data folder; any one of a group joined by "|" is enough.
        origin: where to fetch them, with the commit.
        hub: id of the data set on the hub; empty if it has none.
        audio: where the clips are below the folder.
        checked: split → MD5 of the published annotation file, where known.
        embedded: column of a Parquet file that contains the clips.
        rule_files: names of the files, among those of a split, that the rule reads too; any one of a group joined by "|".
    """

    files: Mapping[str, tuple[str, ...]]
    origin: str
    hub: str = ""
    audio: str = ""
    checked: Mapping[str, str] | None = None
    embedded: str = ""
    rule_files: tuple[str, ...] = ()

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits; the first is the default."""
        return tuple(self.files)


@dataclass(frozen=True)
class DataVersion:
    """Identity of the annotation files that were scored."""

    md5: str
    published: bool | None
    """Whether it is the published file; None where its MD5 is not known."""


def data_folder(source: str, layout: Layout, split: str, clips: Sequence[str] = ()) -> Path:
    """Return the local folder of a data set; fetch its annotation files if it is given as a hub id with a commit.

    Args:
        source: a folder, or `owner/name@commit` of a data set on the hub. Clips are not downloaded unless they are named.
        layout: the published files.
        split: the split whose files are needed.
        clips: paths of clips that are needed, too.

    Raises:
        EvaluationError: no such folder, no commit, or the hub has no such data set.
    """
    if Path(source).is_dir():
        return Path(source)
    match = HUB.fullmatch(source)
    if match is None:
        raise EvaluationError(
            "no such folder, and not a data set of the hub", field="data", value=source, allowed="a folder, or owner/name@commit",
            next_step=f"fetch it from {layout.origin}" + (f", or give {layout.hub}@COMMIT" if layout.hub else ""),
        )  # fmt: skip
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]

    patterns = [name for names in layout.files[split] for name in names.split("|")] + [_literal(clip) for clip in clips]
    try:
        return Path(snapshot_download(match[1], repo_type="dataset", revision=match[2], allow_patterns=patterns))
    except (OSError, HTTPError) as error:
        raise EvaluationError(
            f"the data set cannot be fetched: {str(error).splitlines()[0]}", field="data", value=source,
            next_step=f"check network, commit and access, or fetch it from {layout.origin} and give the folder",
        ) from error  # fmt: skip


def _literal(path: str) -> str:
    """Return a pattern that matches this path only."""
    return re.sub(r"[*?\[]", lambda match: f"[{match[0]}]", path.removeprefix("./"))


def needed_files(folder: Path, layout: Layout, split: str) -> list[Path]:
    """Return the annotation files of a split.

    Raises:
        EvaluationError: files are missing; the message names all of them and where to fetch them.
    """
    found, missing = [], []
    for name in layout.files[split]:
        candidates = [path for option in name.split("|") for path in sorted(folder.glob(option)) if path.is_file()]
        if candidates:
            found += candidates if "*" in name else candidates[:1]
        else:
            missing.append(name.replace("|", " or "))
    if missing:
        raise EvaluationError(
            "files of the benchmark are missing", field="data", value=str(folder), allowed=missing,
            next_step=f"fetch them from {layout.origin} into this folder",
        )  # fmt: skip
    return found


def version_of(files: Sequence[Path], layout: Layout, split: str) -> DataVersion:
    """Return the MD5 of the annotation files and whether they are the published ones.

    Several files have the MD5 of their MD5s. Of clips only the names count.
    """
    sums = [_md5(path.name.encode() if path.suffix in (".wav", ".flac") else path.read_bytes()) for path in files]
    md5 = sums[0] if len(sums) == 1 else _md5("".join(sums).encode())
    known = (layout.checked or {}).get(split)
    return DataVersion(md5, None if known is None else md5 == known)


def _md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def read_rows(path: Path, layout: Layout, key: str = "") -> Rows:
    """Read the rows of a JSON, JSON Lines, CSV or Parquet file; a JSON object of objects gives its values.

    Args:
        path: the file.
        layout: where the file comes from, for messages.
        key: the field of a JSON object that has the rows; empty: the file itself.

    Raises:
        EvaluationError: the file is damaged; the message says from where to fetch it again.
    """
    try:
        rows = _parse(path)
        rows = rows[key] if key else rows
    except (ValueError, TypeError, KeyError, OSError) as error:
        raise damaged(path, layout, str(error).splitlines()[0] if str(error) else type(error).__name__) from error
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise damaged(path, layout, "no list of objects")
    if not rows:
        raise damaged(path, layout, "no rows")
    return rows


def _parse(path: Path) -> Any:
    if path.suffix == ".parquet":
        import pyarrow.parquet

        table = pyarrow.parquet.ParquetFile(path)
        schema = table.schema_arrow
        return table.read(columns=[name for name in schema.names if not _is_audio(schema.field(name).type)]).to_pylist()
    text = path.read_text(encoding="utf-8-sig")
    if path.suffix == ".csv":
        return list(csv.DictReader(text.splitlines(keepends=True)))
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in text.split("\n") if line.strip()]
    value = json.loads(text)
    of_objects = isinstance(value, dict) and all(isinstance(row, dict) for row in value.values())
    return list(value.values()) if of_objects else value


def _is_audio(kind: Any) -> bool:
    """Return whether a column has bytes, or bytes beside a path, as the hub stores audio."""
    import pyarrow

    fields = [kind.field(number).type for number in range(kind.num_fields)] if pyarrow.types.is_struct(kind) else [kind]
    return any(pyarrow.types.is_binary(field) or pyarrow.types.is_large_binary(field) for field in fields)


def damaged(path: Path, layout: Layout, problem: str) -> EvaluationError:
    """Return the error for a file that cannot be read as published."""
    return EvaluationError(
        f"a file of the benchmark is damaged: {problem}", field="data", value=str(path), next_step=f"fetch it again from {layout.origin}"
    )


def require_fields(rows: Iterable[Mapping[str, Any]], fields: Sequence[str], path: Path, layout: Layout) -> None:
    """Check that every row has the fields.

    Raises:
        EvaluationError: one lacks a field; the message names row and field.
    """
    for number, row in enumerate(rows, 1):
        absent = [name for name in fields if name not in row]
        if absent:
            raise damaged(path, layout, f"row {number} lacks {', '.join(absent)}")
