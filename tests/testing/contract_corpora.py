"""Small corpora for tests of the data contract."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from coat_core.corpus.audio import write_flac
from coat_core.corpus.contract.contract import ContractResult, check_corpus
from coat_core.corpus.examples import FAMILIES, SPLITS
from coat_core.settings import ContractSettings
from coat_core.storage import sha256_file

Row = dict[str, Any]
LENIENT = ContractSettings(max_bad_share=0.5)
STRICT = ContractSettings(max_bad_share=0.0)


def make_corpus(folder: Path) -> list[Row]:
    """Write a valid corpus of 30 one-second tones: two rows for each split and family."""
    rows = []
    for number, (split, family, turn) in enumerate((s, f, t) for s in SPLITS for f in FAMILIES for t in range(2)):
        path = folder / "audio" / f"{number:02d}.flac"
        write_flac(path, 0.3 * np.sin(2 * np.pi * (200 + 20 * number) * np.arange(16000) / 16000))
        choice = ("yes", "no")
        rows.append(
            {
                "id": f"row-{number:02d}", "audio": f"audio/{number:02d}.flac", "sha256": sha256_file(path), "duration_s": 1.0,
                "sample_rate_hz": 16000, "split": split, "group": f"{split}:{turn}", "family": family, "task": "tone",
                "question": "Is it a tone?", "choices": list(choice), "answer": choice[turn], "source": "made", "licence": "CC0-1.0",
            }
        )  # fmt: skip
    return rows


def run(folder: Path, rows: list[Row], settings: ContractSettings, workers: int = 1) -> ContractResult:
    return check(folder, "".join(json.dumps(row) + "\n" for row in rows).encode(), settings, workers)


def check(folder: Path, manifest: bytes, settings: ContractSettings, workers: int = 1) -> ContractResult:
    """Write the bytes of a manifest and check the corpus."""
    (folder / "manifest.jsonl").write_bytes(manifest)
    return check_corpus(
        folder,
        settings,
        accepted=folder / "accepted.jsonl",
        quarantine=folder / "quarantine.jsonl",
        records=folder / "contract",
        workers=workers,
    )


def write_rows(folder: Path, changes: dict[str, Row]) -> list[Row]:
    """Return a row of the family `understanding` for each id, all with one audio file in the split `train`, with the given changes."""
    path = folder / "audio" / "tone.flac"
    write_flac(path, 0.3 * np.sin(2 * np.pi * 440 * np.arange(16000) / 16000))
    common = {
        "audio": "audio/tone.flac", "sha256": sha256_file(path), "duration_s": 1.0, "sample_rate_hz": 16000, "split": "train",
        "group": "g", "family": "understanding", "task": "tone", "question": "What is it?", "choices": None, "answer": "a tone",
        "source": "made", "licence": "CC0-1.0",
    }  # fmt: skip
    return [{"id": name, **common, **change} for name, change in changes.items()]
