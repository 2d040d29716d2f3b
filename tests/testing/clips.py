"""Small clips for the extraction tests, and hashes to compare stores."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from coat_core.corpus.audio import write_flac
from coat_core.corpus.examples import Example, Split
from coat_core.storage import sha256_file


def make_clip(corpus: Path, seed: int, split: Split = "train", rate: int = 16000) -> Example:
    """Write clip `seed` (at least 0.25 s, a different length for each seed) and return its example."""
    rng = np.random.default_rng(seed)
    path = corpus / "audio" / f"{seed}.flac"
    samples = int((4000 + 531 * seed) * rate / 16000)
    write_flac(path, 0.1 * rng.standard_normal(samples), rate)
    return Example(
        id=f"e{seed}", audio=f"audio/{seed}.flac", sha256=sha256_file(path), duration_s=samples / rate, sample_rate_hz=rate, split=split,
        group=f"g{seed}", family="music", task="t", question="q", choices=None, answer="a", source="s", licence="l",
    )  # fmt: skip


def file_hashes(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}
