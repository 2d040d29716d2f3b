"""The folder of real recordings, and helpers for corpora that tests import."""

from __future__ import annotations

import os
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
import soundfile

from coat_core.corpus.examples import SPLITS, Example
from coat_core.settings import CorpusSettings

RECORDINGS = Path(os.environ.get("COAT_RECORDINGS", Path(__file__).parents[3] / "shared" / "recordings"))
needs_recordings = pytest.mark.skipif(
    not (RECORDINGS / "index.csv").is_file(), reason=f"no recordings in {RECORDINGS}; set COAT_RECORDINGS"
)


def import_settings(kind: str, seed: int = 7, **counts: int) -> CorpusSettings:
    return CorpusSettings.model_validate(
        {"kind": kind, "path": "x", "seed": seed, "clips_per_family": counts or {"train": 6, "validation": 2, "test": 2}}
    )


def write_tone(path: Path, frequency: float, seconds: float = 0.8, rate: int = 16000) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, 0.2 * np.sin(2 * np.pi * frequency * np.arange(int(seconds * rate)) / rate), rate)


def assert_splits_apart(examples: list[Example]) -> None:
    groups, audio = defaultdict(set), defaultdict(set)
    for example in examples:
        audio[example.sha256].add(example.split)
        for group in example.groups:
            groups[group].add(example.split)
    assert all(len(splits) == 1 for splits in groups.values())
    assert all(len(splits) == 1 for splits in audio.values())
    assert {example.split for example in examples} == set(SPLITS)
