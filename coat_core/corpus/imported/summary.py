"""Summary of an import: how many rows of each family, split and source were read, and what was set aside."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from coat_core.corpus.examples import FAMILIES, SPLITS, Example

SUMMARY = "import.json"
_GROUP_KEYS = ("speaker", "speaker_id", "spk", "spk_id", "client_id", "session", "session_id")
_SHOWN = 5


@dataclass(frozen=True)
class Summary:
    """Counts of an import. `to_json` returns the content of `import.json`."""

    rows: int
    families: dict[str, int]
    splits: dict[str, int]
    sources: dict[str, int]
    split_by_hash: int
    """Rows for which neither a key nor a folder gives the split."""
    segments: int
    """Rows whose clip was cut from a file."""
    ignored_keys: dict[str, int]
    """Number of rows with each key that is not used."""
    files_without_row: list[str]
    """Audio files of an audio folder that no row names."""
    unlabelled: int = 0
    """Rows without an answer."""
    unlabelled_set_aside: tuple[str, ...] = ()
    """Ids of unlabelled rows that are not imported, because their group, audio or file is in validation or test."""

    def to_json(self) -> dict[str, Any]:
        """Return the summary as a JSON object. The counts of unlabelled rows are omitted if there are none."""
        value = asdict(self)
        if not self.unlabelled and not self.unlabelled_set_aside:
            del value["unlabelled"], value["unlabelled_set_aside"]
        return value

    def lines(self) -> list[str]:
        """Return the summary as lines of text."""
        lines = [
            f"imported {self.rows} rows: {_counts(self.families)}",
            f"splits: {_counts(self.splits)} ({self.split_by_hash} rows by a hash of their group)",
            f"sources: {_counts(self.sources)}",
        ]
        if self.unlabelled:
            lines.append(f"unlabelled: {self.unlabelled} rows without an answer take part in distillation only")
        if self.unlabelled_set_aside:
            lines.append(
                f"set aside: {len(self.unlabelled_set_aside)} unlabelled rows whose group, audio or file is in validation or test: "
                f"{_first(self.unlabelled_set_aside)}"
            )
        if self.segments:
            lines.append(f"segments: {self.segments} rows were cut from longer files")
        if self.ignored_keys:
            lines.append(f"ignored keys (rows): {_counts(self.ignored_keys)}")
        speakers = [key for key in self.ignored_keys if key.lower() in _GROUP_KEYS]
        if speakers:
            lines.append(f"  {speakers[0]} is not used: rename it to group, so that a speaker is in one split only")
        if self.files_without_row:
            lines.append(f"set aside: {len(self.files_without_row)} audio files without a row: {_first(self.files_without_row)}")
        return lines


def summarise(
    examples: Sequence[Example],
    *,
    given_splits: int,
    segments: int,
    ignored: Mapping[str, int],
    files_without_row: Sequence[str],
    unlabelled_set_aside: Sequence[str] = (),
) -> Summary:
    """Return the summary of the imported examples."""
    families, splits = Counter(example.family for example in examples), Counter(example.split for example in examples)
    return Summary(
        rows=len(examples),
        families={family: families[family] for family in FAMILIES if families[family]},
        splits={split: splits[split] for split in SPLITS},
        sources=dict(sorted(Counter(example.source for example in examples).items())),
        split_by_hash=len(examples) - given_splits,
        segments=segments,
        ignored_keys=dict(sorted(ignored.items())),
        files_without_row=sorted(files_without_row),
        unlabelled=sum(not example.labelled for example in examples),
        unlabelled_set_aside=tuple(unlabelled_set_aside),
    )


def _first(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{key} {count}" for key, count in counts.items())
