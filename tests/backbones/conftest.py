from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from coat_core.backbones.base import Query


@pytest.fixture
def make_query() -> Callable[..., Query]:
    def make(samples: int, text: str = "What sound is this?", answer: str | None = "dog bark", name: str = "") -> Query:
        waveform = 0.1 * np.random.default_rng(samples).standard_normal(samples).astype(np.float32)
        return Query(f"{samples:064d}", waveform, text, answer, name or f"clip-{samples}")

    return make


@pytest.fixture
def queries(make_query: Callable[..., Query]) -> list[Query]:
    """Three clips and questions of different lengths."""
    return [make_query(16_000), make_query(40_001, "Which instrument plays? Choices: flute, violin."), make_query(7_777, "How many beeps?")]
