from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoProcessor, WhisperFeatureExtractor

from coat_core.backbones.base import Backbone
from coat_core.backbones.catalogue import load_backbone
from coat_core.backbones.mel import frame_count, log_mel, token_count
from coat_core.errors import BackboneError


@pytest.fixture(scope="module")
def extractor() -> WhisperFeatureExtractor:
    return WhisperFeatureExtractor(feature_size=128, chunk_length=10)


def noise(samples: int) -> np.ndarray:
    return 0.3 * np.random.default_rng(samples).standard_normal(samples).astype(np.float32)


@pytest.mark.parametrize(("frames", "tokens"), [(1, 0), (2, 0), (3, 1), (4, 1), (7, 2), (100, 25), (3000, 750)])
def test_token_count_by_hand(frames: int, tokens: int) -> None:
    assert token_count(frames) == tokens


@pytest.mark.parametrize("window", [None, 16_000])
def test_one_by_one_equals_batched(extractor: WhisperFeatureExtractor, window: int | None) -> None:
    waveforms = [noise(16_000), noise(37_777), noise(801)]
    batch = log_mel(extractor, waveforms, window)
    for row, frames, waveform in zip(batch.features, batch.frames.tolist(), waveforms, strict=True):
        alone = log_mel(extractor, [waveform], window)
        assert alone.frames.tolist() == [frames] == [frame_count(len(waveform))]
        assert torch.equal(alone.features[0, :, :frames], row[:, :frames])


def test_last_frame_is_that_of_a_clip_followed_by_silence(extractor: WhisperFeatureExtractor) -> None:
    waveform = noise(16_000)
    silence = np.concatenate([waveform, np.zeros(3_200, np.float32)])
    mine = log_mel(extractor, [waveform], None).features[0]
    padded = extractor([silence], sampling_rate=16_000, padding="do_not_pad", return_tensors="pt")["input_features"][0]
    stock = extractor([waveform], sampling_rate=16_000, padding="do_not_pad", return_tensors="pt")["input_features"][0]
    assert torch.equal(mine, padded[:, :100])
    assert not torch.allclose(mine[:, -1], stock[:, -1], atol=1e-2), "the stock edge effect is gone: the padding is no longer needed"


def test_windowed_features_equal_stock(extractor: WhisperFeatureExtractor) -> None:
    waveform = noise(50_000)
    stock = extractor([waveform], sampling_rate=16_000, return_tensors="pt")["input_features"]
    assert torch.equal(log_mel(extractor, [waveform], 160_000).features, stock)


def test_several_windows_are_each_extracted_alone(extractor: WhisperFeatureExtractor) -> None:
    waveform = noise(40_000)
    waveform[:16_000] *= 0.001
    mel = log_mel(extractor, [waveform], 16_000)
    assert mel.features.shape == (1, 128, 300)
    assert torch.equal(mel.features[0, :, :100], log_mel(extractor, [waveform[:16_000]], 16_000).features[0])


@pytest.mark.parametrize("shape", [(0,), (2, 100)])
def test_what_is_no_mono_waveform_is_refused(extractor: WhisperFeatureExtractor, shape: tuple[int, ...]) -> None:
    with pytest.raises(BackboneError, match="mono"):
        log_mel(extractor, [np.zeros(shape, np.float32)], None)


def stock_counts(key: str, folder: Path, waveforms: list[np.ndarray]) -> list[int]:
    """Count audio tokens as the stock processors do (that of Qwen2.5-Omni needs torchvision: its formula, its mask)."""
    if key == "qwen2_5_omni":
        extractor = WhisperFeatureExtractor.from_pretrained(folder)
        mask = extractor(waveforms, sampling_rate=16_000, padding="max_length", return_attention_mask=True, return_tensors="np")
        return [((int(frames) - 1) // 2 + 1 - 2) // 2 + 1 for frames in mask["attention_mask"].sum(-1)]
    processor = AutoProcessor.from_pretrained(folder)
    name = {"qwen2_audio": "<|AUDIO|>", "audio_flamingo_3": "<sound>"}[key]
    texts, padding = [name] * len(waveforms), {"padding": True}
    ids = processor(text=texts, audio=waveforms, sampling_rate=16_000, return_tensors="pt", text_kwargs=padding)["input_ids"]
    return (ids == processor.audio_token_id).sum(-1).tolist()


def test_token_counts_equal_stock_at_every_remainder(backbone_key: str, tiny_bases: dict[str, Path]) -> None:
    backbone: Backbone = load_backbone(backbone_key, str(tiny_bases[backbone_key]))
    for start in range(0, 640, 128):
        lengths = range(3_200 + start, 3_200 + start + 128)
        waveforms = [np.zeros(n, np.float32) for n in lengths]
        assert stock_counts(backbone_key, tiny_bases[backbone_key], waveforms) == [backbone.audio_token_count(n) for n in lengths]


def test_embeddings_are_as_many_as_counted_at_every_frame_remainder(backbone_key: str, tiny_bases: dict[str, Path]) -> None:
    backbone = load_backbone(backbone_key, str(tiny_bases[backbone_key]))
    lengths = [3_200, 3_201, 3_360, 3_361, 3_520, 3_521, 3_680, 3_681, 3_840, 32_001, 160_000]
    with torch.no_grad():
        audio = backbone.embed_audio(backbone.mel([noise(n) for n in lengths]))
    assert [len(states) for states in audio] == [backbone.audio_token_count(n) for n in lengths]
