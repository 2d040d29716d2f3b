from __future__ import annotations

import pytest

from tests.testing.tiny_training import KEY, TEXTS, World, make_corpus, make_features


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    from coat_core.tiny_bases.config import save_random_base

    folder = tmp_path_factory.mktemp("training")
    examples = make_corpus(folder / "corpus")
    features = make_features(examples, folder / "corpus", folder / "features")
    save_random_base(KEY, folder / "base", texts=TEXTS * 20)
    return World(folder, examples, features)
