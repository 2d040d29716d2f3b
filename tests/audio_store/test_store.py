from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from coat_core.audio_store.extraction import extract_audio
from coat_core.audio_store.store import AudioStore
from coat_core.backbones.base import Backbone
from coat_core.backbones.catalogue import load_backbone
from coat_core.corpus.examples import Example
from coat_core.errors import AudioStoreError
from coat_core.storage import read_json, write_json
from coat_core.tiny_bases.config import save_random_base
from coat_core.training import dataset as training
from coat_core.training.dataset import AudioEmbeddingCache, TrainingDataset

KEY = "qwen2_audio"
CPU = torch.device("cpu")
Clips = tuple[Path, list[Example]]


@pytest.fixture(scope="module")
def base(tiny_bases: dict[str, Path]) -> Backbone:
    return load_backbone(KEY, str(tiny_bases[KEY]))


@pytest.fixture
def store(base: Backbone, clips: Clips, tmp_path: Path) -> Path:
    extract_audio(base, clips[1][:6], clips[0], tmp_path / KEY)
    return tmp_path / KEY


def test_another_base_is_refused_by_field(store: Path, base: Backbone, tiny_bases: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(AudioStoreError, match=r"another audio tower; field: backbone; value: 'qwen2_audio'; allowed: audio_flamingo_3"):
        AudioStore.open(store, load_backbone("audio_flamingo_3", str(tiny_bases["audio_flamingo_3"])))
    with pytest.raises(AudioStoreError, match=r"field: dtype; value: 'float32'; allowed: bfloat16.*coat audio qwen2_audio"):
        AudioStore.open(store, load_backbone(KEY, str(tiny_bases[KEY]), dtype="bfloat16"))
    changed: Any = load_backbone(KEY, str(tiny_bases[KEY]))
    with torch.no_grad():
        changed.model.model.multi_modal_projector.linear.weight[0, 0] += 1e-3
    with pytest.raises(AudioStoreError, match=r"field: weights; value: '[0-9a-f]{64}'; allowed: [0-9a-f]{64} \(of the loaded base\)"):
        AudioStore.open(store, changed)
    window: Any = load_backbone(KEY, str(tiny_bases[KEY]))
    window.extractor.n_samples //= 2
    with pytest.raises(AudioStoreError, match="field: config"):
        AudioStore.open(store, window)


def test_a_copy_of_the_base_in_another_folder_is_accepted(store: Path, clips: Clips, tiny_bases: dict[str, Path], tmp_path: Path) -> None:
    copied = load_backbone(KEY, str(tiny_bases[KEY]))
    copied.save(str(tmp_path / "copy"))
    again = AudioStore.open(store, load_backbone(KEY, str(tmp_path / "copy")))
    assert clips[1][0].sha256 in again
    save_random_base(KEY, tmp_path / "other", texts=("another vocabulary",), seed=5)
    with pytest.raises(AudioStoreError, match="field: weights"):
        AudioStore.open(store, load_backbone(KEY, str(tmp_path / "other")))


def test_a_clip_that_is_missing_or_a_changed_file_is_named(store: Path, base: Backbone, clips: Clips) -> None:
    opened = AudioStore.open(store, base)
    absent, present = clips[1][8].sha256, clips[1][0].sha256
    assert absent not in opened
    for read in (opened.get, opened.waveform):
        with pytest.raises(AudioStoreError, match=f"{absent}.*coat audio {KEY}"):
            read(absent)
    identity = read_json(store / "tower.json")
    write_json(store / "tower.json", {**identity, "fingerprint": "0"})
    with pytest.raises(AudioStoreError, match=r"another run of the tower.*shard-"):
        AudioStore.open(store, base).get(present)
    shard = store / read_json(store / "index.json")[present]["shard"]
    shard.write_bytes(shard.read_bytes()[:-8])
    with pytest.raises(AudioStoreError, match=r"cannot read a shard.*shard-"):
        AudioStore.open(store, base).get(present)
    write_json(store / "tower.json", {"fingerprint": "0", "tower": {"backbone": KEY}})
    with pytest.raises(AudioStoreError, match="identity of an audio tower cannot be read"):
        AudioStore.open(store, base)


def test_training_reads_the_store_and_neither_decodes_nor_runs_the_tower(
    store: Path, base: Backbone, clips: Clips, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus, examples = clips[0], clips[1][:6]
    live = TrainingDataset(base, examples, corpus, AudioEmbeddingCache(base, 10))
    chosen = [5, 0, 3]
    expected, audio = live.batch(chosen, CPU), live.audio(chosen, CPU)

    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("a clip was decoded or encoded")

    monkeypatch.setattr(training, "decode", refuse)
    monkeypatch.setattr(base, "mel", refuse)
    stored = TrainingDataset(base, examples, corpus, AudioEmbeddingCache(base, 10, AudioStore.open(store, base)))
    batch = stored.batch(chosen, CPU)
    for field in ("input_ids", "attention_mask", "answer_mask"):
        assert torch.equal(getattr(batch, field), getattr(expected, field))
    assert all(torch.equal(one, other) for one, other in zip(stored.audio(chosen, CPU), audio, strict=True))
