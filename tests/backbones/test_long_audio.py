from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor

from coat_core.backbones.base import Batch, Query
from coat_core.backbones.catalogue import load_architecture, load_backbone
from coat_core.backbones.lalm import Lalm
from coat_core.errors import BackboneError

WINDOW = 160_000
"""Samples of the tiny towers' window, 10 s."""


def load(folder: Path, key: str, long_audio: str = "windows", positions: int | None = None) -> Lalm:
    """Return a tiny LALM; `positions` replaces the length of the language model."""
    loaded = load_backbone(key, str(folder))
    assert isinstance(loaded, Lalm)
    backbone = Lalm(loaded.architecture, loaded.model, loaded.tokenizer, loaded.extractor, long_audio=long_audio)
    if positions:
        backbone.model.config.text_config.max_position_embeddings = positions
    return backbone


@pytest.fixture
def qwen2_audio(tiny_bases: dict[str, Path]) -> Lalm:
    return load(tiny_bases["qwen2_audio"], "qwen2_audio")


def logits(backbone: Lalm, batch: Batch) -> Tensor:
    audio = backbone.embed_audio(backbone.mel([query.waveform for query in batch.queries]))
    return backbone.answer_logits(backbone.hidden_states(backbone.embed(batch, audio), batch.attention_mask, 4)[1])


def span(backbone: Lalm, ids: Tensor) -> list[int]:
    """Return the first and last index of the placeholders, and their number."""
    places = (ids == backbone.audio_token_id).nonzero().flatten()
    return [int(places[0]), int(places[-1]), len(places)]


def test_the_error_recommends_windows(tiny_bases: dict[str, Path], make_query: Callable[..., Query]) -> None:
    backbone = load(tiny_bases["qwen2_audio"], "qwen2_audio", "refuse")
    with pytest.raises(BackboneError, match="lecture") as caught:
        backbone.encode([make_query(16_000), make_query(WINDOW + 1, name="lecture")])
    assert "backbones.qwen2_audio.long_audio: windows to process up to 60 s" in caught.value.next_step
    assert "10 s" in str(caught.value.allowed)
    with pytest.raises(BackboneError) as caught:
        backbone.encode([make_query(100)])
    assert "long_audio" not in caught.value.next_step, "windows do not help for a clip that is too short"


@pytest.mark.parametrize("generation", [False, True], ids=["right-padded", "left-padded"])
def test_windows_equal_the_stock_forward(qwen2_audio: Lalm, make_query: Callable[..., Query], generation: bool) -> None:
    queries = [make_query(16_000), make_query(2 * WINDOW + 33_333, "How many beeps?"), make_query(WINDOW), make_query(WINDOW + 7_777)]
    batch = qwen2_audio.encode(queries, generation=generation)
    inputs = qwen2_audio.generation_inputs(batch)
    assert inputs["input_features"].shape == (1 + 3 + 1 + 2, 128, 1_000)
    for ids, query in zip(batch.input_ids, queries, strict=True):
        first, last, count = span(qwen2_audio, ids)
        assert last - first + 1 == count == qwen2_audio.audio_token_count(len(query.waveform)), "one contiguous span"
    with torch.no_grad():
        stock, ours = qwen2_audio.model(**inputs).logits, logits(qwen2_audio, batch)
        mask = batch.attention_mask.bool()
        assert float((ours[mask] - stock[mask]).abs().max()) < 1e-5
        swapped = {**inputs, "input_features": inputs["input_features"].flip(0)}
        assert float((qwen2_audio.model(**swapped).logits[mask] - stock[mask]).abs().max()) > 1e-3, "the order of the windows must matter"


def test_each_window_is_embedded_as_a_separate_clip(qwen2_audio: Lalm, make_query: Callable[..., Query]) -> None:
    waveform = make_query(2 * WINDOW + 40_000).waveform
    waveform[:WINDOW] *= 0.01
    with torch.no_grad():
        (whole,) = qwen2_audio.embed_audio(qwen2_audio.mel([waveform]))
        pieces = [qwen2_audio.embed_audio(qwen2_audio.mel([waveform[n : n + WINDOW]]))[0] for n in range(0, len(waveform), WINDOW)]
    assert [len(piece) for piece in pieces] == [250, 250, 62]
    assert torch.allclose(whole, torch.cat(pieces), atol=1e-5)


@pytest.mark.parametrize(("beyond", "tokens"), [(0, 0), (1, 0), (320, 0), (321, 1), (480, 1)])
@pytest.mark.parametrize("key", ["qwen2_audio", "audio_flamingo_3"])
def test_a_last_window_too_short_for_a_token_adds_none(
    tiny_bases: dict[str, Path], make_query: Callable[..., Query], key: str, beyond: int, tokens: int
) -> None:
    backbone = load(tiny_bases[key], key)
    batch = backbone.encode([make_query(WINDOW + beyond)], generation=True)
    inputs = backbone.generation_inputs(batch)
    assert len(inputs["input_features"]) == (2 if beyond else 1)
    assert span(backbone, batch.input_ids[0])[2] == 250 + tokens == backbone.audio_token_count(WINDOW + beyond)
    with torch.no_grad():
        stock = backbone.model(**inputs).logits
        assert torch.isfinite(stock).all()
        assert float((logits(backbone, batch) - stock).abs().max()) < 1e-5


def test_generation_depends_on_the_last_window(qwen2_audio: Lalm, make_query: Callable[..., Query]) -> None:
    long = make_query(2 * WINDOW + 80_000)
    batch = qwen2_audio.encode([long, make_query(20_000)], generation=True)
    with torch.no_grad():
        expected = logits(qwen2_audio, batch)[:, -1]
        cut = qwen2_audio.encode(
            [replace(long, waveform=np.concatenate([long.waveform[: 2 * WINDOW], 0.5 + 0 * long.waveform[2 * WINDOW :]]))]
        )
        assert not torch.allclose(logits(qwen2_audio, cut)[0, -1], expected[0], atol=1e-3)
    new = qwen2_audio.model.generate(**qwen2_audio.generation_inputs(batch), max_new_tokens=3, do_sample=False, eos_token_id=None)
    assert new.shape[1] == batch.input_ids.shape[1] + 3
    assert new[:, -3].tolist() == expected.argmax(-1).tolist()


def test_qwen2_audio_limits_windows_by_its_positions(qwen2_audio: Lalm, make_query: Callable[..., Query]) -> None:
    batch = qwen2_audio.encode([make_query(6 * WINDOW)])
    assert span(qwen2_audio, batch.input_ids[0])[2] == 1_500
    with pytest.raises(BackboneError, match=r"one-too-many.*0\.03 s to 60 s"):
        qwen2_audio.encode([make_query(6 * WINDOW + 1, name="one-too-many")])


def test_published_limits_by_hand() -> None:
    """Qwen2-Audio: (8192 - 512) // 750 = 10 windows; Audio Flamingo 3: 20 windows; Qwen2.5-Omni: the limit of its front end."""
    text, extractor = SimpleNamespace(max_position_embeddings=8192), SimpleNamespace(n_samples=4_800_000)
    config = SimpleNamespace(audio_config=SimpleNamespace(max_source_positions=1500), text_config=text)
    limits = {}
    for key in ("qwen2_audio", "audio_flamingo_3", "qwen2_5_omni"):
        one = load_architecture(key)
        limits[key] = [one.limit_samples(config, extractor) / 16_000, one.long_limit_samples(config, extractor) / 16_000]
    assert limits == {"qwen2_audio": [30, 300], "audio_flamingo_3": [600, 600], "qwen2_5_omni": [300, 300]}


@pytest.mark.slow
def test_audio_flamingo_3_at_its_limit(tiny_bases: dict[str, Path], make_query: Callable[..., Query]) -> None:
    """Twenty windows, 200 s on the tiny tower; the published language model has 32,768 positions, the tiny one 2,048."""
    backbone = load(tiny_bases["audio_flamingo_3"], "audio_flamingo_3", "refuse", positions=32_768)
    query = make_query(20 * WINDOW)
    batch = backbone.encode([query], generation=True)
    first, last, count = span(backbone, batch.input_ids[0])
    assert last - first + 1 == count == 5_000
    with torch.no_grad():
        (audio,) = backbone.embed_audio(backbone.mel([query.waveform]))
        assert audio.shape == (5_000, backbone.hidden_size)
        expected = logits(backbone, batch)[0, -1]
    new = backbone.model.generate(**backbone.generation_inputs(batch), max_new_tokens=2, do_sample=False, eos_token_id=None)
    assert int(new[0, -2]) == int(expected.argmax())
    with pytest.raises(BackboneError, match=r"a-sample-too-long.*0\.03 s to 200 s"):
        backbone.encode([make_query(20 * WINDOW + 1, name="a-sample-too-long")])


def test_a_clip_longer_than_the_language_model_is_refused_by_name(tiny_bases: dict[str, Path], make_query: Callable[..., Query]) -> None:
    backbone = load(tiny_bases["audio_flamingo_3"], "audio_flamingo_3", "refuse")
    with pytest.raises(BackboneError, match=r"two-thousand.*too long for the language model"):
        backbone.encode([make_query(9 * WINDOW, name="two-thousand")])


def test_long_audio_windows_does_not_change_towers_without_a_window(tiny_bases: dict[str, Path], make_query: Callable[..., Query]) -> None:
    backbone = load(tiny_bases["qwen2_5_omni"], "qwen2_5_omni")
    assert span(backbone, backbone.encode([make_query(WINDOW)]).input_ids[0])[2] == 250
    with pytest.raises(BackboneError) as caught:
        backbone.encode([make_query(WINDOW + 1)])
    assert "long_audio" not in caught.value.next_step
