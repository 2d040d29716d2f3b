"""An example with a given answer, for scorers."""

from __future__ import annotations

from coat_core.corpus.examples import Example, Family


def scored_example(answer: str, choices: tuple[str, ...] | None = None, family: Family = "understanding") -> Example:
    # `model_construct`: data that the contract would refuse reaches the scorers, too.
    return Example.model_construct(
        id="e", audio="audio/e.flac", sha256="0" * 64, duration_s=1.0, sample_rate_hz=16000, split="test", group="g", family=family,
        task="t", question="What?", choices=choices, answer=answer, source="s", licence="CC0-1.0",
    )  # fmt: skip
