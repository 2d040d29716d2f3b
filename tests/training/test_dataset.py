from __future__ import annotations

import pytest
import torch

from coat_core.backbones.base import Query
from coat_core.backbones.catalogue import load_backbone
from coat_core.corpus.audio import decode
from coat_core.errors import BackboneError
from coat_core.training import dataset as module
from coat_core.training.dataset import AudioEmbeddingCache, TrainingDataset
from tests.testing.tiny_training import KEY, World

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def backbone(world: World):  # type: ignore[no-untyped-def]
    return load_backbone(KEY, str(world.folder / "base"))


def test_batches_equal_those_of_the_backbones_encode(world: World, backbone) -> None:  # type: ignore[no-untyped-def]
    dataset = TrainingDataset(backbone, world.examples, world.corpus, AudioEmbeddingCache(backbone, 10))
    chosen = [7, 0, 3]
    batch = dataset.batch(chosen, CPU)
    queries = [
        Query(key=e.sha256, waveform=decode(world.corpus / e.audio), text=e.prompt, answer=e.answer, name=e.id)
        for e in (world.examples[i] for i in chosen)
    ]
    expected = backbone.encode(queries)
    assert torch.equal(batch.input_ids, expected.input_ids)
    assert torch.equal(batch.attention_mask, expected.attention_mask)
    assert torch.equal(batch.answer_mask, expected.answer_mask)
    assert [query.name for query in batch.queries] == ["e7", "e0", "e3"]
    assert dataset.answer_tokens(chosen) == int(expected.answer_mask.sum())


def test_the_cache_changes_neither_values_nor_modes(world: World, backbone, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    cached = TrainingDataset(backbone, world.examples, world.corpus, AudioEmbeddingCache(backbone, 10))
    uncached = TrainingDataset(backbone, world.examples, world.corpus, AudioEmbeddingCache(backbone, 0))
    original = backbone.embed_audio

    def checked(mel):  # type: ignore[no-untyped-def]
        assert len(mel.frames) == 1
        assert not any(module.training for module in backbone.model.modules())
        return original(mel)

    monkeypatch.setattr(backbone, "embed_audio", checked)
    backbone.model.train()
    first = cached.audio([2, 5, 9], CPU)
    again, computed = cached.audio([9, 2], CPU), uncached.audio([9, 1, 2], CPU)
    assert torch.equal(first[2], again[0])
    assert torch.equal(first[2], computed[0])
    assert torch.equal(first[0], computed[2])
    assert all(module.training for module in backbone.model.modules())
    backbone.model.eval()
    assert first[0].shape == (backbone.audio_token_count(len(decode(world.corpus / world.examples[2].audio))), backbone.hidden_size)
    assert not first[0].requires_grad


def test_each_clip_is_encoded_once_until_the_cache_is_full(world: World, backbone, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    calls = []
    original = backbone.embed_audio
    monkeypatch.setattr(backbone, "embed_audio", lambda mel: calls.append(mel.frames.tolist()) or original(mel))
    dataset = TrainingDataset(backbone, world.examples, world.corpus, AudioEmbeddingCache(backbone, 10))
    for _ in range(3):
        dataset.audio([0, 1], CPU)
    assert len(calls) == 2
    full = AudioEmbeddingCache(backbone, 1)
    full._limit = 64 * backbone.hidden_size
    for _ in range(2):
        TrainingDataset(backbone, world.examples, world.corpus, full).audio([9, 0], CPU)
    assert full._bytes <= full._limit
    assert world.examples[9].sha256 not in full
    assert world.examples[0].sha256 in full


def test_a_clip_is_decoded_once_for_ids_and_audio_tower(world: World, backbone, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    calls = []
    monkeypatch.setattr(module, "decode", lambda path, **more: calls.append(path.name) or decode(path, **more))
    dataset = TrainingDataset(backbone, world.examples, world.corpus, AudioEmbeddingCache(backbone, 10))
    for _ in range(2):
        dataset.batch([4, 6], CPU)
        dataset.audio([4, 6], CPU)
    assert calls == ["4.flac", "6.flac"]


def test_a_clip_whose_embeddings_are_not_finite_is_named(world: World, backbone, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(backbone, "embed_audio", lambda mel: [torch.full((3, 4), float("nan"))])
    with pytest.raises(BackboneError, match=world.examples[0].sha256):
        TrainingDataset(backbone, world.examples, world.corpus, AudioEmbeddingCache(backbone, 10)).audio([0], CPU)
