"""Import of a NeMo-style JSON Lines manifest or of an audio folder with a Hugging Face `metadata.csv`. Audio keeps its format.

The task of a row without a question is transcription. Rows without a split get one by a hash of their group; rows with the same
group or the same audio get the same split. The contract stage checks the audio.
"""

from __future__ import annotations

import csv
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tqdm import tqdm

from coat_core.corpus.audio import measure, read_header
from coat_core.corpus.examples import FAMILIES, SPLITS, Example, example_from_row, write_manifest
from coat_core.corpus.splits import single_groups, split_rows
from coat_core.errors import AudioError, CorpusError
from coat_core.settings import CorpusSettings
from coat_core.storage import new_folder, read_jsonl, sha256_file

METADATA = "metadata.csv"
_QUESTION = "What is said?"
_SHOWN = 10
_NEMO = {"audio_filepath": "audio", "text": "transcription"}
_FOLDER = {"file_name": "audio", "text": "transcription"}
Row = dict[str, Any]


def import_manifest(settings: CorpusSettings, source: Path, target: Path) -> None:
    """Import a NeMo-style manifest: `audio_filepath`, and `text` or `question` with `answer`.

    Optional: `duration` (seconds), `choices`, `split`, `group`, `family`, `task`, `id`, `licence`.

    Raises:
        CorpusError: the manifest is missing or rows are invalid. The message gives the row numbers.
    """
    if not source.is_file():
        raise CorpusError("the manifest is missing", field="corpus.path", value=str(source), next_step="set it to a JSON Lines file")
    _import(settings, [_rename_columns(row, _NEMO) for row in read_jsonl(source)], source.parent, source.name, target)


def import_audiofolder(settings: CorpusSettings, source: Path, target: Path) -> None:
    """Import a folder with a `metadata.csv`: `file_name`, and `transcription` or `question` with `answer`.

    Optional columns are those of a manifest. `choices` are separated by `|`.

    Raises:
        CorpusError: `metadata.csv` is missing or rows are invalid. The message gives the row numbers.
    """
    table = source / METADATA
    if not table.is_file():
        raise CorpusError(
            "the audio folder has no metadata.csv",
            field="corpus.path",
            value=str(source),
            next_step=f"add a {METADATA} with the column file_name",
        )
    with table.open(newline="", encoding="utf-8") as stream:
        reader = csv.DictReader(stream)
        if "file_name" not in (reader.fieldnames or ()):
            raise CorpusError(
                f"{table}: the column file_name is missing", field="columns", value=reader.fieldnames, next_step="add the column"
            )
        rows: list[Row] = [{key: value.strip() for key, value in row.items() if isinstance(value, str) and value.strip()} for row in reader]
    for row in rows:
        if "choices" in row:
            row["choices"] = [choice.strip() for choice in row["choices"].split("|")]
    _import(settings, [_rename_columns(row, _FOLDER) for row in rows], source, METADATA, target)


def _import(settings: CorpusSettings, rows: list[Row], folder: Path, source: str, target: Path) -> None:
    """Check all rows, copy the audio and write the manifest."""
    checked = _map_rows(source, rows, lambda row: _check_row(row, folder))
    if not checked:
        raise CorpusError(f"{source}: there are no rows", next_step="add a row for each audio file")
    with new_folder(target) as temporary:
        (temporary / "audio").mkdir()
        digests = [_copy(row["path"], temporary / "audio") for row in tqdm(checked, desc="corpus", unit="file", disable=None)]
        groups = [row.get("group") or f"audio:{digest[:16]}" for row, digest in zip(checked, digests, strict=True)]
        keys = [
            [*(f"group {name}" for name in single_groups(group)), f"sha256 {digest}"] for group, digest in zip(groups, digests, strict=True)
        ]
        splits = split_rows(keys, [row.get("split") for row in checked], settings.clips_per_family, settings.seed)
        complete = [
            {**row, "split": split, "group": group, "sha256": digest, "number": number, "source": source}
            for number, (row, split, group, digest) in enumerate(zip(checked, splits, groups, digests, strict=True), 1)
        ]
        write_manifest(temporary / "manifest.jsonl", _map_rows(source, complete, _example))


def _map_rows(source: str, rows: list[Row], read: Callable[[Row], Any]) -> list[Any]:
    """Apply `read` to all rows and report all invalid rows in one error.

    Raises:
        CorpusError: rows are invalid. The message describes the first ten and gives the number of the others.
    """
    done, mistakes = [], []
    for number, row in enumerate(rows, 1):
        try:
            done.append(read(row))
        except (ValueError, CorpusError) as error:
            mistakes.append(f"row {number}: {error}")
    if mistakes:
        more = f"; and {len(mistakes) - _SHOWN} more" if len(mistakes) > _SHOWN else ""
        raise CorpusError(f"{source}: {'; '.join(mistakes[:_SHOWN])}{more}", next_step="fix or remove these rows; nothing was written")
    return done


def _rename_columns(row: Row, names: dict[str, str]) -> Row:
    return {names.get(key, key): value for key, value in row.items() if value is not None}


def _check_row(row: Row, folder: Path) -> Row:
    """Return the row with the path of its audio, after the checks that are made before files are copied.

    Raises:
        ValueError: the row is invalid.
    """
    audio = row.get("audio")
    if not isinstance(audio, str) or not audio:
        raise ValueError("the audio file is not given")
    path = folder / audio
    if not path.resolve().is_relative_to(folder.resolve()):
        raise ValueError(f"audio {audio!r} is outside the data folder")
    if not path.is_file():
        raise ValueError(f"audio {audio!r} is missing")
    for name, allowed in (("split", SPLITS), ("family", FAMILIES)):
        if name in row and row[name] not in allowed:
            raise ValueError(f"{name} is {row[name]!r}, allowed: {', '.join(allowed)}")
    for name in ("group", "task", "id", "question", "answer", "transcription", "licence"):
        if name in row and (not isinstance(row[name], str) or not row[name]):
            raise ValueError(f"{name} is {row[name]!r}, allowed: text")
    if "answer" not in row and "transcription" not in row:
        raise ValueError("neither a transcription nor an answer is given")
    if ("question" in row) != ("answer" in row):
        raise ValueError("question and answer must be given together")
    choices = row.get("choices")
    if choices is not None and not (isinstance(choices, list) and all(isinstance(choice, str) for choice in choices)):
        raise ValueError(f"choices is {choices!r}, allowed: a list of texts")
    duration = row.get("duration")
    if duration is not None:
        try:
            row = {**row, "duration": float(duration)}
        except (TypeError, ValueError):
            raise ValueError(f"duration is {duration!r}, not a number of seconds") from None
        if not math.isfinite(row["duration"]):
            raise ValueError(f"duration is {duration!r}, allowed: a finite number of seconds")
    return {**row, "path": path}


def _copy(path: Path, folder: Path) -> str:
    """Copy an audio file to a name that contains its hash, so that equal files are stored once; return the hash."""
    digest = sha256_file(path)
    copy = folder / _name(path, digest)
    if not copy.exists():
        shutil.copyfile(path, copy)
    return digest


def _name(path: Path, digest: str) -> str:
    return f"{digest[:24]}{path.suffix.lower()}"


def _example(row: Row) -> Example:
    duration_s, rate = _facts(row)
    question = row.get("question")
    family = row.get("family", "transcription")
    return example_from_row(
        {
            "id": row.get("id", f"row-{row['number']:06d}"),
            "audio": f"audio/{_name(row['path'], row['sha256'])}",
            "sha256": row["sha256"],
            "duration_s": duration_s,
            "sample_rate_hz": rate,
            "split": row["split"],
            "group": row["group"],
            "family": family,
            "task": row.get("task", "words" if question is None else family),
            "question": question or _QUESTION,
            "choices": row.get("choices"),
            "answer": row["answer"] if question else row["transcription"],
            "source": row["source"],
            "licence": row.get("licence", "unknown"),
        },
        row["source"],
    )


def _facts(row: Row) -> tuple[float, int]:
    """Return duration (that of the row, or the measured one) and sample rate; 0 for unreadable audio, which the contract reports."""
    if "duration" in row:
        try:
            return row["duration"], read_header(row["path"]).sample_rate_hz
        except AudioError:
            return row["duration"], 0
    facts = measure(row["path"])
    return facts.duration_s or 0.0, facts.sample_rate_hz or 0
