from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from transformers import AutoProcessor, WhisperFeatureExtractor

from coat_core.backbones.base import Backbone
from coat_core.backbones.catalogue import load_backbone
from coat_core.backbones.mel import frame_count, log_mel, split_windows, token_count
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
    assert not torch.allclose(mine[:, -1], stock[:, -1], atol=1e-2), "the stock edge effect no longer exists: the padding is not needed"


KINDS = ("noise", "silence", "clipped", "tone", "click at the end", "loud then faint", "constant")


def waveform_of(kind: str, samples: int) -> np.ndarray:
    time = np.arange(samples)
    click = np.zeros(samples)
    click[-1] = 1.0
    made = {
        "noise": noise(samples),
        "silence": np.zeros(samples),
        "clipped": np.clip(30 * np.sin(time * 0.17), -1, 1),
        "tone": 0.5 * np.sin(time * 0.31),
        "click at the end": click,
        "loud then faint": noise(samples) * np.where(time < samples // 2, 1.0, 1e-5),
        "constant": np.full(samples, 0.25),
    }
    return made[kind].astype(np.float32)


def stock_call(extractor: WhisperFeatureExtractor, pieces: list[np.ndarray]) -> tuple[torch.Tensor, list[int]]:
    """Call the extractor as the published processors do: padded to the maximum length, with the mask of valid frames."""
    out = extractor(pieces, sampling_rate=16_000, padding="max_length", truncation=True, return_attention_mask=True, return_tensors="pt")
    return out["input_features"], out["attention_mask"].sum(-1).tolist()


@pytest.fixture(scope="module")
def published() -> dict[int, WhisperFeatureExtractor]:
    """The front ends of the published checkpoints: 30 s, and 300 s for Qwen2.5-Omni."""
    return {seconds: WhisperFeatureExtractor(feature_size=128, chunk_length=seconds) for seconds in (30, 300)}


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(samples=st.one_of(st.integers(1, 1_000), st.integers(1, 480_000), st.integers(479_000, 480_000)), kind=st.sampled_from(KINDS))
@example(samples=1, kind="noise")
@example(samples=960, kind="click at the end")
@example(samples=480_000, kind="noise")
def test_a_window_equals_stock_on_all_frames(published: dict[int, WhisperFeatureExtractor], samples: int, kind: str) -> None:
    stock, (valid,) = stock_call(published[30], [waveform_of(kind, samples)])
    mel = log_mel(published[30], [waveform_of(kind, samples)], 480_000)
    assert mel.frames.tolist() == [valid]
    assert mel.features.shape == stock.shape
    assert float((mel.features - stock).abs().max()) <= 1e-6


@settings(max_examples=8, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(samples=st.one_of(st.integers(1, 2_000), st.integers(1, 2_000_000)), kind=st.sampled_from(KINDS))
@example(samples=1, kind="noise")
@example(samples=960, kind="click at the end")
@example(samples=4_799_990, kind="noise")
@example(samples=4_800_000, kind="clipped")
def test_true_length_equals_stock_on_valid_frames(published: dict[int, WhisperFeatureExtractor], samples: int, kind: str) -> None:
    stock, (valid,) = stock_call(published[300], [waveform_of(kind, samples)])
    mel = log_mel(published[300], [waveform_of(kind, samples)], None)
    assert mel.features.shape == (1, 128, valid), "only the true length"
    assert float((mel.features - stock[..., :valid]).abs().max()) <= 1e-6


def test_the_maximum_can_be_after_the_last_valid_frame(published: dict[int, WhisperFeatureExtractor]) -> None:
    """A click in sample 959 is closest to frame 6, which is not valid: the floor is derived from that frame."""
    faint = waveform_of("click at the end", 960) + 1e-5 * noise(960)
    features = log_mel(published[30], [faint], 480_000).features[0]
    assert features[:, 6].max() > features[:, :6].max() + 0.3
    assert torch.equal(log_mel(published[300], [faint], None).features[0], features[:, :6])


def test_windows_of_a_long_clip_equal_the_stock_processors_rows(tiny_bases: dict[str, Path]) -> None:
    processor = AutoProcessor.from_pretrained(tiny_bases["audio_flamingo_3"])
    waveforms = [noise(410_001), noise(5_000), noise(160_000)]
    stock = processor(text=["<sound>"] * 3, audio=waveforms, sampling_rate=16_000, return_tensors="pt", text_kwargs={"padding": True})
    features, valid, counts = split_windows(log_mel(processor.feature_extractor, waveforms, 160_000), 1_000)
    assert counts == [3, 1, 1]
    assert float((features - stock["input_features"]).abs().max()) <= 1e-6
    assert valid.tolist() == stock["input_features_mask"].sum(-1).tolist() == [1000, 1000, 563, 32, 1000]


@pytest.mark.parametrize("seconds", [29.9, 30, 30.01, 59.98, 61, 600])
def test_tokens_of_windows_equal_stock(published: dict[int, WhisperFeatureExtractor], tiny_bases: dict[str, Path], seconds: float) -> None:
    """Audio Flamingo 3 counts the tokens of a clip; the sum over windows, each counted by Qwen2-Audio's processor, is equal."""
    samples = round(seconds * 16_000)
    mine = token_count(frame_count(samples))
    for key, pieces in {
        "audio_flamingo_3": [samples],
        "qwen2_audio": [min(480_000, samples - n) for n in range(0, samples, 480_000)],
    }.items():
        processor = AutoProcessor.from_pretrained(tiny_bases[key])
        processor.feature_extractor = published[30]
        total = 0
        for piece in pieces:
            text = [processor.audio_token]
            ids = processor(text=text, audio=[np.zeros(piece, np.float32)], sampling_rate=16_000, return_tensors="pt")["input_ids"]
            total += int((ids == processor.audio_token_id).sum())
        assert total == mine, key


def test_a_clip_longer_than_the_maximum_is_refused(extractor: WhisperFeatureExtractor) -> None:
    assert log_mel(extractor, [np.zeros(160_000, np.float32)], None).frames.tolist() == [1_000]
    with pytest.raises(BackboneError, match="at most 10 s"):
        log_mel(extractor, [np.zeros(160_001, np.float32)], None)


@pytest.mark.parametrize(("name", "value"), [("n_fft", 512), ("hop_length", 200), ("dither", 1e-4), ("sampling_rate", 8_000)])
def test_another_front_end_is_refused(name: str, value: float) -> None:
    other = WhisperFeatureExtractor(feature_size=128)
    setattr(other, name, value)
    with pytest.raises(BackboneError, match=f"preprocessor_config.{name}"):
        log_mel(other, [noise(1_000)], None)


def test_a_read_only_waveform_is_accepted(extractor: WhisperFeatureExtractor) -> None:
    waveform = noise(1_000)
    expected = log_mel(extractor, [waveform.copy()], None).features
    waveform.flags.writeable = False
    assert torch.equal(log_mel(extractor, [waveform], None).features, expected)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("kind", KINDS)
def test_on_a_gpu_it_equals_stock(published: dict[int, WhisperFeatureExtractor], kind: str) -> None:
    stock, _ = stock_call(published[30], [waveform_of(kind, 123_456)])
    mine = log_mel(published[30], [waveform_of(kind, 123_456)], 480_000, device="cuda").features
    assert mine.is_cuda
    assert float((mine.cpu() - stock).abs().max()) <= 1e-4


def test_several_windows_are_extracted_separately(extractor: WhisperFeatureExtractor) -> None:
    waveform = noise(40_000)
    waveform[:16_000] *= 0.001
    mel = log_mel(extractor, [waveform], 16_000)
    assert mel.features.shape == (1, 128, 300)
    assert torch.equal(mel.features[0, :, :100], log_mel(extractor, [waveform[:16_000]], 16_000).features[0])


@pytest.mark.parametrize("shape", [(0,), (2, 100)])
def test_a_waveform_that_is_not_mono_is_refused(extractor: WhisperFeatureExtractor, shape: tuple[int, ...]) -> None:
    with pytest.raises(BackboneError, match="mono"):
        log_mel(extractor, [np.zeros(shape, np.float32)], None)


def stock_counts(key: str, folder: Path, waveforms: list[np.ndarray]) -> list[int]:
    """Count audio tokens with the stock processor; Qwen2.5-Omni's needs torchvision, so its formula is computed on its mask."""
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


def test_the_number_of_embeddings_equals_the_count_at_every_frame_remainder(backbone_key: str, tiny_bases: dict[str, Path]) -> None:
    backbone = load_backbone(backbone_key, str(tiny_bases[backbone_key]))
    lengths = [3_200, 3_201, 3_360, 3_361, 3_520, 3_521, 3_680, 3_681, 3_840, 32_001, 160_000]
    with torch.no_grad():
        audio = backbone.embed_audio(backbone.mel([noise(n) for n in lengths]))
    assert [len(states) for states in audio] == [backbone.audio_token_count(n) for n in lengths]
