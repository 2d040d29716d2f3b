"""A training reads the audio store, and gives the release that it gives with the tower."""

from __future__ import annotations

from pathlib import Path

import pytest

from coat_core.audio_store.extraction import extract_audio
from coat_core.backbones.catalogue import load_backbone
from coat_core.backbones.lalm import Lalm
from coat_core.errors import AudioStoreError
from coat_core.tiny_bases.config import save_random_base
from tests.testing.clips import file_hashes
from tests.testing.tiny_training import KEY, TEXTS, World, make_corpus, make_features

STEPS = {"training": {"ground_steps": 1, "respond_steps": 1, "warmup_steps": 0}}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("training")
    examples = make_corpus(folder / "corpus")
    save_random_base(KEY, folder / "base", texts=TEXTS * 20)
    extract_audio(load_backbone(KEY, str(folder / "base")), examples, folder / "corpus", folder / "audio", progress=False)
    return World(folder, examples, make_features(examples, folder / "corpus", folder / "features"))


@pytest.mark.parametrize("trial", ["sft-0", "coat-0"])
def test_the_release_is_the_same_without_the_tower(world: World, trial: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = world.settings(**STEPS)
    expected = file_hashes(world.train(tmp_path / "tower", trial, settings))

    def refuse(*_: object) -> None:
        raise AssertionError("the tower ran")

    monkeypatch.setattr(Lalm, "embed_audio", refuse)
    monkeypatch.setattr(Lalm, "mel", refuse)
    assert file_hashes(world.train(tmp_path / "store", trial, settings, audio=world.folder / "audio")) == expected


def test_a_store_of_another_base_is_refused(world: World, tmp_path: Path) -> None:
    save_random_base(KEY, tmp_path / "other", texts=TEXTS * 20, seed=3)
    extract_audio(load_backbone(KEY, str(tmp_path / "other")), world.examples, world.corpus, tmp_path / "audio", progress=False)
    with pytest.raises(AudioStoreError, match=rf"another audio tower; field: weights.*coat audio {KEY}"):
        world.train(tmp_path, "sft-0", world.settings(**STEPS), audio=tmp_path / "audio")
    assert not (tmp_path / "model").exists()
