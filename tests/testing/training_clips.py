"""Clips of noise with one question each, for the training of bases."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from coat_core.corpus.audio import write_flac
from coat_core.corpus.examples import Example
from coat_core.storage import sha256_file


def make_example(
    audio: str, sha256: str, answer: str, task: str = "register", choices: tuple[str, ...] | None = ("low", "high")
) -> Example:
    return Example(
        id=f"{audio}-{answer}",
        audio=audio,
        sha256=sha256,
        duration_s=1.0,
        sample_rate_hz=16_000,
        split="train",
        group="g",
        family="music",
        task=task,
        question="How high is it?",
        choices=choices,
        answer=answer,
        source="test",
        licence="CC0-1.0",
    )


def write_noise_corpus(folder: Path, clips: int = 8) -> list[Example]:
    """Write clips of 0.4 to 0.7 s and return one example about each; the answers alternate."""
    (folder / "audio").mkdir(parents=True)
    examples = []
    for i in range(clips):
        waveform = 0.1 * np.random.default_rng(i).standard_normal(6_000 + 700 * i)
        write_flac(folder / f"audio/{i}.flac", waveform.astype(np.float32), 16_000)
        examples.append(make_example(f"audio/{i}.flac", sha256_file(folder / f"audio/{i}.flac"), ("low", "high")[i % 2]))
    return examples
