"""Audio folders of others as a corpus: a NeMo-style JSON Lines manifest, or a Hugging Face `metadata.csv`. Audio keeps its format.

A row asks for a transcript unless it brings a question of its own. Rows without a split are dealt by a hash of their group, and
rows that share a group or the same audio stay together. What the audio holds is judged by the contract stage, not here.
"""

from __future__ import annotations

import csv
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tqdm import tqdm

from coat_core.corpus.audio import measure, probe
from coat_core.corpus.examples import FAMILIES, SPLITS, Example, example_from_row, write_manifest
from coat_core.corpus.splits import atoms, split_rows
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
        CorpusError: the manifest or some of its rows cannot be used; each row is named.
    """
    if not source.is_file():
        raise CorpusError("the manifest is missing", field="corpus.path", value=str(source), next_step="name a JSON Lines file")
    _import(settings, [_renamed(row, _NEMO) for row in read_jsonl(source)], source.parent, source.name, target)


def import_audiofolder(settings: CorpusSettings, source: Path, target: Path) -> None:
    """Import a folder with a `metadata.csv`: `file_name`, and `transcription` or `question` with `answer`.

    Optional columns as in a manifest; `choices` are parted by `|`.

    Raises:
        CorpusError: the folder or some of its rows cannot be used; each row is named.
    """
    table = source / METADATA
    if not table.is_file():
        raise CorpusError(
            "the audio folder has no metadata.csv",
            field="corpus.path",
            value=str(source),
            next_step=f"put a {METADATA} with file_name there",
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
    _import(settings, [_renamed(row, _FOLDER) for row in rows], source, METADATA, target)


def _import(settings: CorpusSettings, rows: list[Row], folder: Path, source: str, target: Path) -> None:
    """Check every row, then copy the audio and write the manifest."""
    checked = _each(source, rows, lambda row: _checked(row, folder))
    if not checked:
        raise CorpusError(f"{source}: there are no rows", next_step="add a row for each audio file")
    with new_folder(target) as made:
        (made / "audio").mkdir()
        digests = [_copy(row["path"], made / "audio") for row in tqdm(checked, desc="corpus", unit="file", disable=None)]
        groups = [row.get("group") or f"audio:{digest[:16]}" for row, digest in zip(checked, digests, strict=True)]
        keys = [[*(f"group {atom}" for atom in atoms(group)), f"sha256 {digest}"] for group, digest in zip(groups, digests, strict=True)]
        splits = split_rows(keys, [row.get("split") for row in checked], settings.clips_per_family, settings.seed)
        complete = [
            {**row, "split": split, "group": group, "sha256": digest, "number": number, "source": source}
            for number, (row, split, group, digest) in enumerate(zip(checked, splits, groups, digests, strict=True), 1)
        ]
        write_manifest(made / "manifest.jsonl", _each(source, complete, _example))


def _each(source: str, rows: list[Row], read: Callable[[Row], Any]) -> list[Any]:
    """Read all rows; whatever does not hold is reported together.

    Raises:
        CorpusError: naming the first rows that do not hold, and how many there are.
    """
    done, mistakes = [], []
    for number, row in enumerate(rows, 1):
        try:
            done.append(read(row))
        except (ValueError, CorpusError) as error:
            mistakes.append(f"row {number}: {error}")
    if mistakes:
        more = f"; and {len(mistakes) - _SHOWN} more" if len(mistakes) > _SHOWN else ""
        raise CorpusError(
            f"{source}: {'; '.join(mistakes[:_SHOWN])}{more}", next_step="mend these rows or take them out; nothing was written"
        )
    return done


def _renamed(row: Row, names: dict[str, str]) -> Row:
    return {names.get(key, key): value for key, value in row.items() if value is not None}


def _checked(row: Row, folder: Path) -> Row:
    """Return the row with its audio's path, after the checks that must precede any copying.

    Raises:
        ValueError: the row does not hold.
    """
    audio = row.get("audio")
    if not isinstance(audio, str) or not audio:
        raise ValueError("it names no audio file")
    path = folder / audio
    if not path.resolve().is_relative_to(folder.resolve()):
        raise ValueError(f"audio {audio!r} leaves the data folder")
    if not path.is_file():
        raise ValueError(f"audio {audio!r} is missing")
    for name, allowed in (("split", SPLITS), ("family", FAMILIES)):
        if name in row and row[name] not in allowed:
            raise ValueError(f"{name} is {row[name]!r}, allowed: {', '.join(allowed)}")
    for name in ("group", "task", "id", "question", "answer", "transcription", "licence"):
        if name in row and (not isinstance(row[name], str) or not row[name]):
            raise ValueError(f"{name} is {row[name]!r}, allowed: text")
    if "answer" not in row and "transcription" not in row:
        raise ValueError("it has neither a transcript nor an answer")
    if ("question" in row) != ("answer" in row):
        raise ValueError("question and answer go together")
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
    """Copy an audio file under its hash, so that equal files are one, and return the hash."""
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
    """Return duration (the row's own, else decoded) and sample rate; zeros where audio cannot be read: the contract reports it."""
    if "duration" in row:
        try:
            return row["duration"], probe(row["path"]).sample_rate_hz
        except AudioError:
            return row["duration"], 0
    facts = measure(row["path"])
    return facts.duration_s or 0.0, facts.sample_rate_hz or 0
