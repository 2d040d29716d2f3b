"""Windows of long audio: their features equal those of the whole clip, apart from context that a window lacks."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from coat_core.experts.neural.base import NeuralExpert
from coat_core.experts.neural.windowing import Windowing

TinyExpert = Callable[[str], NeuralExpert]


def features_of(expert: NeuralExpert, waveform: np.ndarray) -> np.ndarray:
    features, mask = expert(waveform[None], np.array([len(waveform)]))
    assert mask.all()
    return features[0]


def long_clip(expert: NeuralExpert, frames: int) -> np.ndarray:
    """Return a sound whose level changes over time, so that statistics of a part differ from those of the whole."""
    samples = frames * expert.encoder.hop - 17
    time = np.arange(samples) / expert.spec.sample_rate_hz
    sound = 0.3 * np.sin(2 * np.pi * (200 + 30 * time) * time) + 0.1 * np.random.default_rng(5).standard_normal(samples)
    return (sound * (0.2 + time / time[-1])).astype(np.float32)


def without_attention(expert: NeuralExpert) -> NeuralExpert:
    """Return the same expert with zero attention output: the rest is local."""
    encoder = copy.deepcopy(expert.encoder)
    for layer in encoder.model.encoder.layers:
        torch.nn.init.zeros_(layer.attention.out_proj.weight)
        torch.nn.init.zeros_(layer.attention.out_proj.bias)
    return replace(expert, encoder=encoder)


@pytest.mark.parametrize("name", ["hubert", "wav2vec2", "wavlm", "emotion", "dimensions"])
def test_without_attention_windows_equal_the_whole(name: str, tiny_expert: TinyExpert) -> None:
    expert = without_attention(tiny_expert(name))
    clip = long_clip(expert, 401)
    whole = features_of(expert, clip)
    # The convolution over positions reaches 4 frames here (64 in the published models, with 250 frames of context).
    parts = features_of(replace(expert, windowing=Windowing(frames=60, context=12)), clip)
    np.testing.assert_allclose(parts, whole, rtol=0, atol=2e-5 * np.abs(whole).max())


@pytest.mark.parametrize("name", ["hubert", "wav2vec2", "wavlm", "emotion", "dimensions"])
def test_with_attention_windows_are_close_to_the_whole(name: str, tiny_expert: TinyExpert) -> None:
    # A layer attends to the whole window, so a window of a long clip has less context. Random weights attend almost evenly, which is the
    # worst case: the error is less than a twelfth of the deviation of the frames from their mean.
    expert = tiny_expert(name)
    clip = long_clip(expert, 401)
    whole = features_of(expert, clip)
    parts = features_of(replace(expert, windowing=Windowing(frames=200, context=50)), clip)
    assert np.linalg.norm(parts - whole) < np.linalg.norm(whole - whole.mean(axis=0)) / 12


@pytest.mark.parametrize(("name", "tolerance"), [("mimi", 1e-5), ("encodec", 1e-5)])
def test_causal_codecs_need_a_limited_context(name: str, tolerance: float, tiny_expert: TinyExpert) -> None:
    # Two layers over 6 positions of 40 ms and the convolutions reach 7 frames back; EnCodec's LSTM reaches about 40.
    expert = tiny_expert(name)
    clip = long_clip(expert, 301)
    whole = features_of(expert, clip)
    context = {"mimi": 12, "encodec": 60}[name]
    parts = features_of(replace(expert, windowing=Windowing(frames=2 * context + 30, context=context)), clip)
    np.testing.assert_allclose(parts, whole, rtol=0, atol=tolerance * np.abs(whole).max())
    short = features_of(replace(expert, windowing=Windowing(frames=32, context=1)), clip)
    assert np.abs(short - whole).max() > 100 * tolerance * np.abs(whole).max()


def test_windows_of_events_are_local_so_a_cut_clip_is_the_same_clip(tiny_expert: TinyExpert) -> None:
    expert = tiny_expert("ast")
    clip = long_clip(expert, 24)
    whole = features_of(expert, clip)
    head = features_of(expert, clip[: 12 * expert.encoder.hop])
    np.testing.assert_allclose(head[:11], whole[:11], rtol=0, atol=1e-6)
    assert np.abs(head[11] - whole[11]).max() > 1e-4


@pytest.mark.parametrize("name", ["whisper", "qwen2_audio", "audio_flamingo_3"])
def test_the_kept_frames_of_a_window_are_those_of_the_window_alone(name: str, tiny_expert: TinyExpert) -> None:
    # These models accept no input longer than their window, so each window is compared with the same window alone.
    expert = tiny_expert(name)
    frames, context = expert.windowing.frames, expert.windowing.context
    assert (frames, context) == ({"whisper": 150}.get(name, 250), {"whisper": 25}.get(name, 41))
    hop = expert.encoder.hop
    clip = long_clip(expert, 2 * frames + 33)
    features = features_of(expert, clip)
    spans = expert.windowing.spans(2 * frames + 33)
    assert len(spans) == 3
    for span in spans:
        alone = features_of(expert, clip[span.start * hop : span.stop * hop])
        kept = alone[span.keep_from - span.start : span.keep_to - span.start]
        np.testing.assert_allclose(features[span.keep_from : span.keep_to], kept, rtol=0, atol=1e-5 * max(1.0, np.abs(kept).max()))


@pytest.mark.parametrize("name", ["hubert", "wavlm", "whisper", "emotion", "mimi", "encodec", "qwen2_audio"])
def test_a_click_next_to_a_seam_changes_its_own_frame(name: str, tiny_expert: TinyExpert) -> None:
    expert = tiny_expert(name)
    windowing = Windowing(frames=60, context=20) if name != "mimi" else Windowing(frames=36, context=12)
    expert = replace(expert, windowing=windowing)
    frames = 3 * windowing.frames
    clip = (0.1 * np.random.default_rng(2).standard_normal(frames * expert.encoder.hop - 17)).astype(np.float32)
    background = features_of(expert, clip)
    seam = windowing.spans(frames)[1].keep_from
    for frame in (seam - 1, seam):
        for place in (frame * expert.encoder.hop, frame * expert.encoder.hop + expert.encoder.hop // 2):
            click = clip.copy()
            click[place : place + 4] += 0.9
            track = np.linalg.norm(features_of(expert, click) - background, axis=1)
            shown = int((track > 1e-4 * track.max()).argmax()) if expert.spec.implementation == "codec" else int(track.argmax())
            assert abs(shown - frame) <= 1


def test_long_and_short_clips_share_a_batch(tiny_expert: TinyExpert) -> None:
    expert = replace(tiny_expert("hubert"), windowing=Windowing(frames=60, context=12))
    lengths = np.array([5000, 100000, 320, 64000])
    rows = (0.1 * np.random.default_rng(3).standard_normal((4, 100000))).astype(np.float32)
    features, mask = expert(rows, lengths)
    for row, length in enumerate(lengths):
        alone = features_of(expert, rows[row, :length])
        assert mask[row].sum() == len(alone)
        np.testing.assert_allclose(features[row, : len(alone)], alone, rtol=0, atol=2e-5)
