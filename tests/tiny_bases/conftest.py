from __future__ import annotations

from pathlib import Path

import pytest

from coat_core.corpus.examples import Example
from tests.testing.published_parts import write_encoder, write_language_model
from tests.testing.training_clips import write_noise_corpus


@pytest.fixture
def corpus(tmp_path: Path) -> tuple[Path, list[Example]]:
    """A folder of eight clips of noise, with one question about each."""
    return tmp_path / "corpus", write_noise_corpus(tmp_path / "corpus")


@pytest.fixture(scope="session")
def encoder_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Whisper encoder with random weights, without its decoder."""
    return write_encoder(tmp_path_factory.mktemp("parts") / "encoder")


@pytest.fixture(scope="session")
def language_model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama with random weights and a ChatML tokenizer."""
    return write_language_model(tmp_path_factory.mktemp("parts") / "language_model")
