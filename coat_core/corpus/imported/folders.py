"""Metadata files of an audio folder, and the splits that the names of its folders give (as in Hugging Face datasets)."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from coat_core.corpus.examples import Split
from coat_core.errors import CorpusError

METADATA = ("metadata.csv", "metadata.jsonl")
_SPLIT_WORDS: dict[str, Split] = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev"), "validation"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation"), "test"),
}
"""The keywords of the Hugging Face `datasets` library ("Structure your repository")."""
_SEPARATORS = re.compile(r"[\s._\-0-9]+")
_AUDIO = re.compile(r"\.(wav|wave|flac|mp3|ogg|oga|opus|aiff?|aifc|au|snd|caf|w64|rf64|sph|m4a|aac|wma|webm)$", re.IGNORECASE)


def metadata_files(folder: Path) -> list[Path]:
    """Return the metadata files of an audio folder: in the folder itself and in folders below it. Hidden folders are skipped.

    Raises:
        CorpusError: there is none, or a folder contains two.
    """
    found = [path for path in _files(folder) if path.name in METADATA]
    by_folder: dict[Path, list[Path]] = defaultdict(list)
    for path in found:
        by_folder[path.parent].append(path)
    for parent, paths in by_folder.items():
        if len(paths) > 1:
            raise CorpusError(
                "a folder contains metadata.csv and metadata.jsonl",
                field="corpus.path",
                value=str(parent),
                next_step="keep one of them",
            )
    if not found:
        raise CorpusError(
            "the audio folder has no metadata.csv or metadata.jsonl",
            field="corpus.path",
            value=str(folder),
            next_step="add a metadata.csv with the column file_name, in the folder or in each folder of a split",
        )
    return found


def folder_split(path: Path, folder: Path) -> Split | None:
    """Return the split that the names of the folders of a file give, relative to the audio folder; None if they give none.

    A folder gives a split if a word of its name is a keyword: `test`, `data/train`, `train-clean-100`, `dev_other`.

    Raises:
        ValueError: two folders give different splits.
    """
    found: dict[Split, str] = {}
    for name in Path(os.path.relpath(path.parent, folder)).parts:
        for word in _SEPARATORS.split(name.lower()):
            if word in _SPLIT_WORDS:
                found.setdefault(_SPLIT_WORDS[word], name)
    if len(found) > 1:
        names = " and ".join(f"{name!r} ({split})" for split, name in found.items())
        raise ValueError(f"the folders of the file give two splits: {names}; rename one of them")
    return next(iter(found), None)


def audio_files(folder: Path) -> set[Path]:
    """Return the audio files below a folder, by their suffix. Hidden folders are skipped."""
    return {path for path in _files(folder) if _AUDIO.search(path.name)}


def _files(folder: Path) -> Iterator[Path]:
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(parent) / name for name in sorted(names) if not name.startswith("."))
