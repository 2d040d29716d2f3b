from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from coat_core.audio_store.extraction import extract_audio
from coat_core.audio_store.store import AudioStore
from coat_core.backbones.base import Backbone
from coat_core.backbones.catalogue import load_backbone
from coat_core.corpus.audio import decode
from coat_core.corpus.examples import Example
from coat_core.errors import AudioError, AudioStoreError, BackboneError, ExpertError
from coat_core.shards.layout import shard_name
from coat_core.training.dataset import AudioEmbeddingCache
from tests.testing.clips import file_hashes
from tests.testing.kills import Killed, killed_at

KEY = "qwen2_5_omni"
Clips = tuple[Path, list[Example]]


@pytest.fixture
def base(tiny_bases: dict[str, Path]) -> Backbone:
    return load_backbone(KEY, str(tiny_bases[KEY]))


@pytest.fixture
def calls(base: Backbone, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Frames of each clip that the tower encodes; those of the fixed sound (one second) are left out."""
    found: list[int] = []
    embed = base.embed_audio

    def counting(mel: Any) -> list[torch.Tensor]:
        found.extend(count for count in mel.frames.tolist() if count != 100)
        return embed(mel)

    monkeypatch.setattr(base, "embed_audio", counting)
    return found


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_stored_values_are_bitwise_those_that_training_computes(
    backbone_key: str, dtype: str, tiny_bases: dict[str, Path], clips: Clips, tmp_path: Path
) -> None:
    corpus, examples = clips
    backbone = load_backbone(backbone_key, str(tiny_bases[backbone_key]), dtype=dtype)
    extract_audio(backbone, [*examples, examples[0]], corpus, tmp_path)
    live, store = AudioEmbeddingCache(backbone, 0), AudioStore.open(tmp_path, backbone)
    assert set(store) == {example.sha256 for example in examples}
    assert len(store) == len(examples)
    for example in examples:
        waveform = decode(corpus / example.audio)
        expected = live.get(example.sha256, lambda waveform=waveform: waveform)  # type: ignore[misc]
        stored = store.get(example.sha256)
        assert stored.dtype == expected.dtype == getattr(torch, dtype)
        assert torch.equal(stored, expected)
        length = store.waveform(example.sha256)
        assert length.shape == waveform.shape
        assert length.dtype == waveform.dtype
        assert np.isnan(length).all(), "no silence that could be taken for the clip"


def test_killed_at_any_write_and_resumed_gives_the_same_bytes(
    base: Backbone, calls: list[int], clips: Clips, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus, examples = clips
    monkeypatch.setattr("coat_core.shards.layout.PREFIX_LENGTH", 1)
    extract_audio(base, examples, corpus, tmp_path / "whole")
    whole = file_hashes(tmp_path / "whole")
    shards = sum(name.startswith("shard-") for name in whole)
    assert 3 < shards < len(examples)
    again = []
    for at in range(1, len(whole) + 1):
        with pytest.raises(Killed), killed_at(at):
            extract_audio(base, examples, corpus, tmp_path / str(at))
        with pytest.raises(AudioStoreError, match=f"missing or unfinished.*coat audio {KEY}"):
            AudioStore.open(tmp_path / str(at), base)
        calls.clear()
        extract_audio(base, examples, corpus, tmp_path / str(at))
        assert file_hashes(tmp_path / str(at)) == whole, at
        again.append(len(calls))
    # The later the kill, the fewer clips are computed again; none once all shards are written.
    assert again == sorted(again, reverse=True)
    assert again[0] == len(examples)
    assert again[shards:] == [0] * (len(whole) - shards)


def test_one_new_clip_costs_one_clip_and_one_shard(
    base: Backbone, calls: list[int], clips: Clips, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus, examples = clips
    monkeypatch.setattr("coat_core.shards.layout.PREFIX_LENGTH", 1)
    store = tmp_path / "store"
    extract_audio(base, examples[:-1], corpus, store)
    before = {path.name: path.stat().st_ino for path in store.iterdir()}
    calls.clear()
    extract_audio(base, examples, corpus, store)
    assert calls == [-(-(4000 + 531 * 11) // 160)]
    changed = {path.name for path in store.iterdir() if before.get(path.name) != path.stat().st_ino}
    assert {name for name in changed if name.startswith("shard-")} == {shard_name(examples[-1].sha256[:1])}
    extract_audio(base, examples, corpus, tmp_path / "new")
    assert file_hashes(store) == file_hashes(tmp_path / "new")
    calls.clear()
    before = {path.name: path.stat().st_ino for path in store.iterdir()}
    extract_audio(base, examples, corpus, store)
    assert {path.name: path.stat().st_ino for path in store.iterdir()} == before, "a finished store is not written again"
    extract_audio(base, examples[:5], corpus, store)
    assert calls == []
    assert set(AudioStore.open(store, base)) == {example.sha256 for example in examples[:5]}


def test_another_tower_computes_every_clip_again(
    base: Backbone, calls: list[int], clips: Clips, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus, examples = clips
    model: Any = base.model
    extract_audio(base, examples[:3], corpus, tmp_path)
    before = AudioStore.open(tmp_path, base).get(examples[0].sha256).clone()
    with torch.no_grad():
        model.model.language_model.layers[0].mlp.up_proj.weight.add_(1.0)
    calls.clear()
    extract_audio(base, examples[:3], corpus, tmp_path)
    assert calls == [], "the language model does not count"
    with torch.no_grad():
        model.model.audio_tower.conv1.bias.add_(0.1)
    extract_audio(base, examples[:3], corpus, tmp_path)
    assert len(calls) == 3
    assert not torch.equal(AudioStore.open(tmp_path, base).get(examples[0].sha256), before)
    # Changed code: the weights are the same and the output is not.
    calls.clear()
    embed = base.embed_audio
    monkeypatch.setattr(base, "embed_audio", lambda mel: [2.0 * states for states in embed(mel)])
    extract_audio(base, examples[:3], corpus, tmp_path)
    assert len(calls) == 3


def test_a_bad_file_or_value_is_named_and_leaves_no_index(
    base: Backbone, clips: Clips, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus, examples = shutil.copytree(clips[0], tmp_path / "corpus"), clips[1]
    bad, kept = corpus / examples[4].audio, (corpus / examples[4].audio).read_bytes()
    for content, error, message in (
        (kept[: len(kept) // 2], AudioError, "4.flac"),
        ((corpus / examples[5].audio).read_bytes(), ExpertError, "4.flac.*SHA-256 of the audio differs from the manifest"),
    ):
        bad.write_bytes(content)
        with pytest.raises(error, match=message):
            extract_audio(base, examples, corpus, tmp_path / "store")
        assert not (tmp_path / "store" / "index.json").exists()
        assert not (tmp_path / "store" / shard_name(examples[4].sha256[:2])).exists()
    bad.write_bytes(kept)
    embed = base.embed_audio
    poisoned = -(-(4000 + 531 * 4) // 160)
    with monkeypatch.context() as patch:
        patch.setattr(base, "embed_audio", lambda mel: [s / 0.0 if mel.frames[0] == poisoned else s for s in embed(mel)])
        with pytest.raises(BackboneError, match=r"not finite.*audio/4\.flac"):
            extract_audio(base, examples, corpus, tmp_path / "store")
    assert not (tmp_path / "store" / "index.json").exists()
    extract_audio(base, examples, corpus, tmp_path / "store")
    assert len(AudioStore.open(tmp_path / "store", base)) == len(examples)
    with pytest.raises(AudioStoreError, match="no clips"):
        extract_audio(base, [], corpus, tmp_path / "empty")
