"""A small corpus of tones, and releases of tiny models with random weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from coat_core.corpus.examples import Example
from tests.testing.evaluations import write_clips, write_random_release, write_stores


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Example]]:
    """Folder and examples; read only."""
    folder = tmp_path_factory.mktemp("corpus")
    return folder, write_clips(folder)


@pytest.fixture(scope="session")
def stores(corpus: tuple[Path, list[Example]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with a store per expert; read only."""
    root = tmp_path_factory.mktemp("features")
    write_stores(root, *corpus)
    return root


@pytest.fixture
def make_release(tiny_bases: dict[str, Path], stores: Path, tmp_path: Path) -> Callable[[str, str], Path]:
    def make(key: str, arm: str) -> Path:
        target = tmp_path / "models" / f"{key}-{arm}-0"
        write_random_release(target, tiny_bases[key], key, arm, stores)
        return target

    return make
