"""Clips of different lengths."""

from __future__ import annotations

from pathlib import Path

import pytest

from coat_core.corpus.examples import Example
from tests.testing.clips import make_clip


@pytest.fixture(scope="session")
def clips(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Example]]:
    """Folder and examples of twelve clips, of which two are not at 16 kHz; read only."""
    corpus = tmp_path_factory.mktemp("corpus")
    rates = {3: 22050, 7: 8000}
    return corpus, [make_clip(corpus, seed, "train" if seed % 3 else "test", rates.get(seed, 16000)) for seed in range(12)]
