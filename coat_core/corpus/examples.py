"""Examples of audio question answering and their manifest (JSON Lines)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from coat_core.errors import CorpusError
from coat_core.storage import iterate_jsonl, write_jsonl

Family = Literal["transcription", "understanding", "music", "emotion", "reasoning"]
Split = Literal["train", "validation", "test"]
FAMILIES: tuple[Family, ...] = get_args(Family)
SPLITS: tuple[Split, ...] = get_args(Split)
_SURROGATE = re.compile("[\ud800-\udfff]")
_SHOWN_CHARACTERS = 200


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
    """Identity of a speaker, an actor or a source recording, an opaque string. All examples of a group are in the same split."""
    group_parts: tuple[str, ...] | None = None
    """Groups of the recordings that a clip is composed of, if there is more than one; `group` is then their joined name."""
    family: Family
    task: str
    question: str
    choices: tuple[str, ...] | None
    answer: str | None
    """null: the example is unlabelled. It takes part in distillation only, and is allowed in the split `train` only."""
    source: str
    licence: str

    @field_validator("*")
    @classmethod
    def _encodable(cls, value: Any) -> Any:
        """Refuse a lone surrogate (half of a UTF-16 pair, RFC 8259 § 8.2): it is no character and cannot be written as UTF-8."""
        for text in value if isinstance(value, tuple) else (value,):
            if isinstance(text, str) and (found := _SURROGATE.search(text)):
                raise ValueError(f"character {found.start() + 1} is the lone surrogate U+{ord(found[0]):04X}, allowed: Unicode text")
        return value

    @field_validator("group_parts")
    @classmethod
    def _at_least_two(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if value is not None and (len(set(value)) < 2 or len(set(value)) != len(value) or not all(part.strip() for part in value)):
            raise ValueError("allowed: null, or at least two different groups that are not empty")
        return value

    @property
    def labelled(self) -> bool:
        """Whether the example has an answer."""
        return self.answer is not None

    @property
    def label(self) -> str:
        """The answer of a labelled example.

        Raises:
            CorpusError: the example is unlabelled.
        """
        if self.answer is None:
            raise CorpusError("the example is unlabelled", field="answer", value=f"null in row {self.id}", allowed="text")
        return self.answer

    @property
    def groups(self) -> tuple[str, ...]:
        """The groups that must be in the same split: those of a composed clip's recordings, else the group."""
        return self.group_parts or (self.group,)

    @property
    def prompt(self) -> str:
        """The text of the prompt: the question, and the choices in the order of the row."""
        return self.question if self.choices is None else f"{self.question} Choices: {', '.join(self.choices)}."

    def to_row(self) -> dict[str, object]:
        """Return the manifest row. `group_parts` is omitted if it is null."""
        return self.model_dump(mode="json", exclude={"group_parts"} if self.group_parts is None else None)


_FIELDS = set(Example.model_fields)
_FIELDS_OF_ONE_GROUP = _FIELDS - {"group_parts"}
_OWN_TEXTS = ("id", "question")
"""Fields whose texts seldom occur again."""


class SharedValues:
    """Equal values of the rows of a manifest, kept once: an example takes 1 KB in place of 2.3 KB. Discard it after the last row."""

    def __init__(self) -> None:
        self._kept: dict[object, object] = {}

    def of_row(self, row: dict[str, object]) -> dict[str, object]:
        """Return a row whose values, other than id and question, are those of earlier rows where they are equal."""
        return {key: value if key in _OWN_TEXTS or type(value) not in (str, tuple) else self._keep(value) for key, value in row.items()}

    def _keep(self, value: object) -> object:
        try:
            return self._kept.setdefault(value, value)
        except TypeError:  # a tuple with a list in it, which is an invalid row
            return value


def example_from_row(row: dict[str, object], where: str = "manifest", shared: SharedValues | None = None) -> Example:
    """Read one manifest row.

    Args:
        row: the row.
        where: the place of the row, for the error.
        shared: values of the other rows, to save memory.

    Raises:
        CorpusError: a field is missing, unknown or of the wrong type, or its text is not Unicode. The message lists every mistake.
    """
    values = {key: tuple(value) if isinstance(value, list) else value for key, value in row.items()}
    try:
        example = Example.model_validate(values if shared is None else shared.of_row(values))
    except ValidationError as error:
        mistakes = "; ".join(
            f"{'.'.join(map(str, e['loc']))}: {e['msg']} (got {repr(e['input'])[:_SHOWN_CHARACTERS]})" for e in error.errors()
        )
        raise CorpusError(
            escape_surrogates(f"{where}: row {row.get('id', '?')}: {mistakes}"),
            next_step="fix the row, or let the contract stage quarantine it",
        ) from error
    # pydantic keeps the set of the given names in each object, 700 bytes; every field but one is required, so there are two such sets.
    names = _FIELDS if "group_parts" in row else _FIELDS_OF_ONE_GROUP
    object.__setattr__(example, "__pydantic_fields_set__", names)
    return example


def escape_surrogates(text: str) -> str:
    r"""Return a text that can be written as UTF-8: a lone surrogate becomes its escape sequence, e.g. `\ud83d`."""
    return text.encode("utf-8", "backslashreplace").decode()


def read_manifest(path: Path) -> list[Example]:
    """Read a manifest.

    Raises:
        CorpusError: a row is invalid.
    """
    shared = SharedValues()
    return [example_from_row(row, str(path), shared) for row in iterate_jsonl(path)]


def write_manifest(path: Path, examples: Iterable[Example]) -> None:
    """Write a manifest atomically."""
    write_jsonl(path, (example.to_row() for example in examples))


def longest_durations(examples: Iterable[Example]) -> dict[str, float]:
    """Return the duration of each clip in seconds by audio hash; of several rows of one clip, the largest one."""
    found: dict[str, float] = {}
    for example in examples:
        found[example.sha256] = max(example.duration_s, found.get(example.sha256, 0.0))
    return found


def select_split(examples: Sequence[Example], split: Split) -> list[Example]:
    """Return the examples of one split, in manifest order."""
    return [example for example in examples if example.split == split]
