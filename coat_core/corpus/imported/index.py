"""The index of a folder of labelled recordings: `index.csv`, one row per file.

Only `path`, `corpus` and `group` are required. The labels of a row determine its role: *word* (transcript), *event*, *emotion* or
*note* (instrument and midi).
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from coat_core.corpus.splits import GROUP_SEPARATOR
from coat_core.errors import CorpusError

Role = Literal["word", "event", "emotion", "note"]

INDEX = "index.csv"
_REQUIRED = ("path", "corpus", "group")
_LICENCES = {
    "fsdd": "CC-BY-SA-4.0",
    "esc10": "CC-BY-3.0",
    "ravdess": "CC-BY-NC-SA-4.0",
    "philharmonia": "CC-BY-SA-3.0",
}
"""Licences of known corpora. A `licence` column takes precedence."""
_DYNAMICS = {"pianissimo": "soft", "piano": "soft", "forte": "loud", "fortissimo": "loud"}


@dataclass(frozen=True)
class Recording:
    """One row of the index with readable labels. A label that does not apply is empty."""

    path: Path
    corpus: str
    role: Role
    group: str
    """`corpus:name`; all recordings of a group are in the same split. The group of a note is its pitch, not its instrument (a label)."""
    stratum: str
    """Every split contains groups of every stratum."""
    licence: str
    duration_s: float
    transcript: str = ""
    event: str = ""
    emotion: str = ""
    intensity: str = ""
    instrument: str = ""
    midi: int = 0
    dynamic: str = ""


def read_index(folder: Path) -> list[Recording]:
    """Read `index.csv`. Rows without a known label are skipped.

    Raises:
        CorpusError: the index is missing or empty, or rows are invalid. The message gives their line numbers.
    """
    path = folder / INDEX
    if not path.is_file():
        raise CorpusError("a folder of recordings has no index", field="corpus.path", value=str(folder), next_step=f"add an {INDEX}")
    with path.open(newline="", encoding="utf-8") as stream:
        reader = csv.DictReader(stream)
        missing = [name for name in _REQUIRED if name not in (reader.fieldnames or ())]
        if missing:
            raise CorpusError(
                f"{path}: columns are missing: {', '.join(missing)}", allowed=", ".join(_REQUIRED), next_step="add the columns"
            )
        rows = [
            {str(key): (value or "").strip() for key, value in row.items() if isinstance(value, str) or value is None} for row in reader
        ]
    recordings, mistakes = [], []
    inside = folder.resolve()
    for line, row in enumerate(rows, 2):
        try:
            recording = _recording(folder, inside, row)
        except ValueError as error:
            mistakes.append(f"line {line}: {error}")
            continue
        if recording:
            recordings.append(recording)
    if mistakes:
        shown = "; ".join(mistakes[:10]) + (f"; and {len(mistakes) - 10} more" if len(mistakes) > 10 else "")
        raise CorpusError(f"{path}: {shown}", next_step="fix or remove these lines")
    if not recordings:
        raise CorpusError(f"{path}: no row has a known label", allowed="transcript, event, emotion, instrument with midi")
    return recordings


def readable(label: str) -> str:
    """Return a label with spaces instead of underscores."""
    return " ".join(label.replace("_", " ").split())


def _recording(folder: Path, inside: Path, row: dict[str, str]) -> Recording | None:
    """Return the recording of one row, or None when it has no known label.

    Raises:
        ValueError: a value is invalid.
    """
    for name in _REQUIRED:
        if not row[name]:
            raise ValueError(f"{name} is empty")
    path = folder / row["path"]
    if not path.resolve().is_relative_to(inside):
        raise ValueError(f"path {row['path']!r} is outside the data folder")
    if not path.is_file():
        raise ValueError(f"path {row['path']!r} is missing")
    role, group, stratum = _role(row)
    if role is None:
        return None
    return Recording(
        path=path,
        corpus=row["corpus"],
        role=role,
        group=f"{row['corpus']}:{group.replace(GROUP_SEPARATOR, '_')}",
        stratum=f"{row['corpus']}/{stratum}",
        licence=row.get("licence") or _LICENCES.get(row["corpus"], "unknown"),
        duration_s=_number(row, "duration_s"),
        transcript=readable(row.get("transcript", "")).lower(),
        event=readable(row.get("event", "")),
        emotion=readable(row.get("emotion", "")),
        intensity=readable(row.get("intensity", "")),
        instrument=readable(row.get("instrument", "")),
        midi=round(_number(row, "midi")),
        dynamic=_DYNAMICS.get(row.get("dynamic", ""), ""),
    )


def _role(row: dict[str, str]) -> tuple[Role | None, str, str]:
    """Return role, group and stratum."""
    if row.get("instrument") and row.get("midi"):
        midi = _number(row, "midi")
        return "note", row.get("note") or f"midi{midi:g}", "low notes" if midi < 57 else "middle notes" if midi < 75 else "high notes"
    if row.get("emotion"):
        return "emotion", row["group"], "emotion"
    if row.get("event"):
        return "event", row["group"], readable(row["event"])
    if row.get("transcript"):
        return "word", row["group"], "word"
    return None, "", ""


def _number(row: dict[str, str], name: str) -> float:
    text = row.get(name) or "0"
    try:
        value = float(text)
    except ValueError:
        raise ValueError(f"{name} is {text!r}, not a number") from None
    if not 0 <= value < 1e6:
        raise ValueError(f"{name} is {text}, allowed: 0 or more")
    return value
