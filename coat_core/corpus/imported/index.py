"""The index of a folder of labelled recordings: `index.csv`, one row per file.

Only `path`, `corpus` and `group` are required. The labels of a row determine its role: *word* (transcript), *event*, *emotion* or
*note* (instrument and midi).
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Literal

from coat_core.corpus.imported.lines import SHOWN, Line, Mistakes
from coat_core.corpus.imported.locate import Locator
from coat_core.corpus.imported.tables import read_table
from coat_core.corpus.normal_form import has_words, normalise_option
from coat_core.errors import CorpusError

Role = Literal["word", "event", "emotion", "note"]

INDEX = "index.csv"
_REQUIRED = ("path", "corpus", "group")
_LABELS = ("transcript", "event", "emotion", "intensity", "instrument")
_SEGMENT = ("offset", "start", "end", "start_time", "end_time", "onset", "channel")
"""Columns that would choose a part of a file. A recording is always used whole, so a value in one of them is an error."""
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


@dataclass
class Index:
    """The recordings of an index, and the rows that were set aside."""

    recordings: list[Recording] = field(default_factory=list)
    unlabelled: list[int] = field(default_factory=list)
    """Lines of the rows without a known label."""
    unscorable: list[int] = field(default_factory=list)
    """Lines of the words whose transcript has no word after the normalisation of the scorer ("um", "[laughter]")."""

    def summary(self) -> str:
        """Return one line: how many recordings of each label and corpus were read, and which lines were set aside, with the reason."""
        labels, corpora = (_counts(key) for key in ([r.role for r in self.recordings], [r.corpus for r in self.recordings]))
        aside = len(self.unlabelled) + len(self.unscorable)
        reasons = [
            f"{len(lines)} {reason} ({_lines(lines)})"
            for lines, reason in ((self.unlabelled, "without a known label"), (self.unscorable, "whose transcript has no word"))
            if lines
        ]
        return f"{INDEX}: {len(self.recordings) + aside} rows read; label {labels}; corpus {corpora}; set aside: {aside}" + (
            f": {', '.join(reasons)}" if reasons else ""
        )


def read_index(folder: Path, roots: Sequence[str] = ()) -> list[Recording]:
    """Read the recordings of `index.csv`. Rows without a known label, or without a word to score, are left out; see `load_index`.

    Raises:
        CorpusError: the index is missing or empty, or rows are invalid. The message gives their line numbers.
    """
    return load_index(folder, roots).recordings


def load_index(folder: Path, roots: Sequence[str] = ()) -> Index:
    """Read `index.csv` with the strict rules of a table: every record has the fields of the header, and the text is UTF-8.

    Args:
        folder: the folder of the recordings.
        roots: other folders that may contain the recordings, or the targets of links (`corpus.roots`), absolute or relative to `folder`.

    Raises:
        CorpusError: the index is missing or empty, or rows are invalid. The message gives up to 20 of them with their lines.
    """
    path = folder / INDEX
    if not path.is_file():
        raise CorpusError("a folder of recordings has no index", field="corpus.path", value=str(folder), next_step=f"add an {INDEX}")
    mistakes = Mistakes()
    lines = read_table(path, str(path), ("path",), mistakes, _REQUIRED)
    index, locator = Index(), Locator(folder, roots)
    first: dict[Path, tuple[int, str]] = {}
    for line in lines:
        try:
            recording = _recording(folder, locator, line, first, index)
        except ValueError as error:
            mistakes.add(line.name, line.number, str(error))
            continue
        if recording:
            index.recordings.append(recording)
    if mistakes.found:
        found = [f"line {number}: {message}" for _, number, message in sorted(mistakes.found)]
        more = f"; and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
        raise CorpusError(f"{path}: {'; '.join(found[:SHOWN])}{more}", next_step="fix or remove these lines; nothing was written")
    if not index.recordings:
        raise CorpusError(f"{path}: no row has a known label", allowed="transcript, event, emotion, instrument with midi")
    return index


def readable(label: str) -> str:
    """Return a label in NFC with spaces instead of underscores."""
    return " ".join(unicodedata.normalize("NFC", label).replace("_", " ").split())


def _recording(folder: Path, locator: Locator, line: Line, first: dict[Path, tuple[int, str]], index: Index) -> Recording | None:
    """Return the recording of one row, or None if the row is set aside, which is noted in `index`.

    Raises:
        ValueError: a value is invalid.
    """
    row: dict[str, str] = line.row
    for name in _REQUIRED:
        if not row.get(name):
            raise ValueError(f"{name} is empty")
    segment = [name for name in _SEGMENT if name in row]
    if segment:
        raise ValueError(
            f"{segment[0]} is {row[segment[0]]!r}, but a recording is used whole: cut the file, or import it with corpus.kind manifest"
        )
    path = _find(locator, folder, row["path"])
    role, group, stratum = _role(row)
    if role is None:
        index.unlabelled.append(line.number)
        return None
    if role == "word" and not _scorable(row["transcript"]):
        index.unscorable.append(line.number)
        return None
    for name in _LABELS:
        if name in row and not normalise_option(readable(row[name])):
            raise ValueError(f"{name} is {row[name]!r}, allowed: text with a letter or digit")
    group = f"{row['corpus']}:{unicodedata.normalize('NFC', group)}"
    earlier, its = first.setdefault(path, (line.number, group))
    if its != group:
        raise ValueError(
            f"path {row['path']!r} is also in line {earlier}, there in group {its!r}, here in {group!r}: its audio would be in two splits"
        )
    return Recording(
        path=path,
        corpus=row["corpus"],
        role=role,
        group=group,
        stratum=f"{row['corpus']}/{stratum}",
        licence=row.get("licence") or _LICENCES.get(row["corpus"], "unknown"),
        duration_s=_number(row, "duration_s"),
        transcript=readable(row.get("transcript", "")).lower(),
        event=readable(row.get("event", "")),
        emotion=readable(row.get("emotion", "")),
        intensity=readable(row.get("intensity", "")),
        instrument=readable(row.get("instrument", "")),
        midi=round(_midi(row)),
        dynamic=_DYNAMICS.get(row.get("dynamic", ""), ""),
    )


def _find(locator: Locator, folder: Path, name: str) -> Path:
    """Return the path of a recording.

    Raises:
        ValueError: the file is missing, or is outside the data folder and the roots.
    """
    try:
        return locator.find(folder, name)
    except ValueError as error:
        raise ValueError(f"path {str(error).removeprefix('audio ')}") from None


@cache
def _scorable(transcript: str) -> bool:
    return has_words(readable(transcript))


def _role(row: dict[str, str]) -> tuple[Role | None, str, str]:
    """Return role, group and stratum."""
    if row.get("instrument") and row.get("midi"):
        midi = _midi(row)
        return "note", row.get("note") or f"midi{midi:g}", "low notes" if midi < 57 else "middle notes" if midi < 75 else "high notes"
    if row.get("emotion"):
        return "emotion", row["group"], "emotion"
    if row.get("event"):
        return "event", row["group"], readable(row["event"])
    if row.get("transcript"):
        return "word", row["group"], "word"
    return None, "", ""


def _midi(row: dict[str, str]) -> float:
    value = _number(row, "midi")
    if value != round(value) or value > 127:
        raise ValueError(f"midi is {row['midi']}, allowed: a whole number from 0 to 127")
    return value


def _number(row: dict[str, str], name: str) -> float:
    text = row.get(name) or "0"
    try:
        value = float(text)
    except ValueError:
        raise ValueError(f"{name} is {text!r}, not a number") from None
    if not 0 <= value < 1e6:
        raise ValueError(f"{name} is {text}, allowed: 0 or more")
    return value


def _counts(names: Sequence[str]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(Counter(names).items()))


def _lines(numbers: Sequence[int]) -> str:
    shown = ", ".join(map(str, numbers[:SHOWN]))
    return f"line {shown}" if len(numbers) == 1 else f"lines {shown}{', …' if len(numbers) > SHOWN else ''}"
