"""Helpers of the tests that import manifests and audio folders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from numpy.typing import NDArray

from coat_core.corpus.examples import Example, read_manifest
from coat_core.corpus.imported.corpus import import_corpus
from coat_core.settings import CorpusSettings


def settings(kind: str, **fields: Any) -> CorpusSettings:
    shares = {"train": 6, "validation": 2, "test": 2}
    return CorpusSettings.model_validate({"kind": kind, "path": "x", "clips_per_family": shares, **fields})


def import_rows(folder: Path, rows: list[dict[str, Any]], **fields: Any) -> list[Example]:
    """Write rows as JSON Lines and import them."""
    return import_text(folder, "".join(json.dumps(row) + "\n" for row in rows), **fields)


def import_text(folder: Path, text: str | bytes, name: str = "rows.jsonl", **fields: Any) -> list[Example]:
    """Write a manifest and import it."""
    (folder / name).write_bytes(text.encode() if isinstance(text, str) else text)
    return imported("manifest", folder / name, **fields)


def import_table(folder: Path, text: str | bytes, name: str = "metadata.csv", **fields: Any) -> list[Example]:
    """Write the metadata file of an audio folder and import the folder."""
    (folder / name).write_bytes(text.encode() if isinstance(text, str) else text)
    return imported("audiofolder", folder, **fields)


def imported(kind: str, source: Path, **fields: Any) -> list[Example]:
    target = corpus_of(source)
    import_corpus(settings(kind, **fields), source, target)
    return read_manifest(target / "manifest.jsonl")


def corpus_of(source: Path) -> Path:
    """Return the folder to which `imported` writes."""
    folder = source if source.is_dir() else source.parent
    return folder.parent / f"corpus-of-{folder.name}"


def write_tones(folder: Path, *names: str, rate: int = 16000, seconds: float = 0.25) -> None:
    """Write a tone of another frequency for each name."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        frequency = 200 + sum(map(ord, name)) % 500
        soundfile.write(folder / name, 0.2 * np.sin(2 * np.pi * frequency * np.arange(round(seconds * rate)) / rate), rate)


def write_noise(path: Path, seconds: float, rate: int = 8000, channels: int = 1, subtype: str = "PCM_16") -> NDArray[np.float32]:
    """Write noise, so that every segment differs from all others; return the samples of the file `[N, channels]`."""
    noise = np.random.default_rng(7).uniform(-0.5, 0.5, (round(seconds * rate), channels))
    soundfile.write(path, noise, rate, subtype=subtype)
    samples: NDArray[np.float32] = soundfile.read(path, dtype="float32", always_2d=True)[0]
    return samples
