"""Examples of audio question answering and their manifest (JSON Lines)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal, get_args

from pydantic import BaseModel, ConfigDict, ValidationError

from coat_core.errors import CorpusError
from coat_core.storage import read_jsonl, write_jsonl

Family = Literal["transcription", "understanding", "music", "emotion", "reasoning"]
Split = Literal["train", "validation", "test"]
FAMILIES: tuple[Family, ...] = get_args(Family)
SPLITS: tuple[Split, ...] = get_args(Split)


class Example(BaseModel):
    """One question about one clip. The fields are in the order of the manifest."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    id: str
    audio: str
    """Path of the audio file, relative to the corpus folder (`data/corpus`)."""
    sha256: str
    """SHA-256 of the audio file's bytes; the key of its features in the expert stores."""
    duration_s: float
    sample_rate_hz: int
    split: Split
    group: str
    """Identity of a speaker, an actor or a source recording. All examples of a group are in the same split."""
    family: Family
    task: str
    question: str
    choices: tuple[str, ...] | None
    answer: str
    source: str
    licence: str

    @property
    def prompt(self) -> str:
        """The text of the prompt: the question, and the choices in the order of the row."""
        return self.question if self.choices is None else f"{self.question} Choices: {', '.join(self.choices)}."

    def to_row(self) -> dict[str, object]:
        """Return the manifest row."""
        return self.model_dump(mode="json")


def example_from_row(row: dict[str, object], where: str = "manifest") -> Example:
    """Read one manifest row.

    Raises:
        CorpusError: a field is missing, unknown or of the wrong type. The message lists every mistake.
    """
    try:
        choices = row.get("choices")
        return Example.model_validate({**row, "choices": tuple(choices) if isinstance(choices, list) else choices})
    except ValidationError as error:
        mistakes = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']} (got {e['input']!r})" for e in error.errors())
        raise CorpusError(
            f"{where}: row {row.get('id', '?')}: {mistakes}", next_step="fix the row, or let the contract stage quarantine it"
        ) from error


def read_manifest(path: Path) -> list[Example]:
    """Read a manifest.

    Raises:
        CorpusError: a row is invalid.
    """
    return [example_from_row(row, str(path)) for row in read_jsonl(path)]


def write_manifest(path: Path, examples: Iterable[Example]) -> None:
    """Write a manifest atomically."""
    write_jsonl(path, (example.to_row() for example in examples))


def select_split(examples: Sequence[Example], split: Split) -> list[Example]:
    """Return the examples of one split, in manifest order."""
    return [example for example in examples if example.split == split]
