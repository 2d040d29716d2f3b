from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tiny_training import KEY, TEXTS, make_corpus, make_features, make_settings

from coat_core.corpus.examples import Example
from coat_core.settings import Settings


@dataclass
class World:
    """A corpus, its stores and a random base, made once for all training tests."""

    folder: Path
    examples: list[Example]
    features: dict[str, Path]

    @property
    def corpus(self) -> Path:
        return self.folder / "corpus"

    def settings(self, **sections: Any) -> Settings:
        return make_settings(self.folder / "base", **sections)

    def train(self, where: Path, trial: str, settings: Settings | None = None, tracker: Any = None, **changes: Any) -> Path:
        """Train into `where` and return the release."""
        from coat_core.training.run import train
        from coat_core.training.tracker import NullTracker

        arguments: dict[str, Any] = {
            "examples": self.examples, "corpus": self.corpus, "features": self.features, "target": where / "model",
            "records": where / "run", "scratch": where / "scratch", "fingerprint": "key", "tracker": tracker or NullTracker(), **changes,
        }
        train(settings or self.settings(), KEY, trial, **arguments)
        return where / "model"


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    from coat_core.backbones.tiny import save_random_base

    folder = tmp_path_factory.mktemp("training")
    examples = make_corpus(folder / "corpus")
    features = make_features(examples, folder / "corpus", folder / "features")
    save_random_base(KEY, folder / "base", texts=TEXTS * 20)
    return World(folder, examples, features)
