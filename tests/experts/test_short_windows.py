"""A shorter window of Whisper's encoder, and the average of consecutive frames."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from coat_core.errors import ExpertError
from coat_core.experts.catalogue import build_expert, load_expert
from coat_core.experts.store.fingerprint import neural_fingerprint
from coat_core.experts.store.store import spec_from_json
from coat_core.settings import ExpertSettings


def _settings(folder: Path, implementation: str = "speech_encoder", **values: object) -> ExpertSettings:
    return ExpertSettings.model_validate(
        {"implementation": implementation, "checkpoint": str(folder), "accept_licence": "MIT", "layers": None, **values}
    )


def _clips() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return (0.1 * rng.standard_normal((2, 24000))).astype(np.float32), np.array([24000, 9001])


def test_a_shorter_window_equals_the_stock_encoder_with_fewer_positions(checkpoints: dict[str, Path]) -> None:
    from transformers import WhisperFeatureExtractor, WhisperModel

    folder = checkpoints["whisper"]
    stock = WhisperModel.from_pretrained(folder).eval().encoder
    stock.embed_positions.weight = torch.nn.Parameter(stock.embed_positions.weight[:100])
    stock.embed_positions.num_embeddings = stock.config.max_source_positions = 100
    extractor = WhisperFeatureExtractor.from_pretrained(folder)
    waveforms, lengths = _clips()
    features, mask = load_expert("speech_encoder", _settings(folder, window_s=2.0))(waveforms, lengths)
    assert mask.sum(axis=1).tolist() == [75, 29]
    for row, length in enumerate(lengths):
        mel = extractor(waveforms[row, :length], sampling_rate=16000, max_length=32000, return_tensors="pt")["input_features"]
        assert mel.shape[2] == 200
        states = stock(mel, output_hidden_states=True).hidden_states[2][0].detach().numpy()
        np.testing.assert_allclose(features[row, mask[row]], states[: mask[row].sum()], atol=1e-5 * np.abs(states).max())


def test_a_clip_longer_than_the_window_is_cut_with_context_at_the_seams(checkpoints: dict[str, Path]) -> None:
    expert = load_expert("speech_encoder", _settings(checkpoints["whisper"], window_s=1.0))
    waveforms, _ = _clips()
    features, mask = expert(waveforms[:1], np.array([24000]))
    assert mask.sum() == 75
    # Windows of 50 frames with 8 on each side: frames 0 to 41 come from the first second alone.
    first, _ = expert(waveforms[:1, :16000], np.array([16000]))
    np.testing.assert_allclose(features[0, :42], first[0, :42], atol=1e-5)
    assert np.abs(features[0, 42:50] - first[0, 42:50]).max() > 1e-4


@pytest.mark.parametrize("name", ["whisper", "hubert"])
def test_pooled_frames_are_means_of_pairs(name: str, checkpoints: dict[str, Path]) -> None:
    waveforms = _clips()[0]
    lengths = np.array([24000, 9600])  # 75 and 30 frames
    single, _ = load_expert("speech_encoder", _settings(checkpoints[name]))(waveforms, lengths)
    expert = load_expert("speech_encoder", _settings(checkpoints[name], pool_frames=2))
    pooled, mask = expert(waveforms, lengths)
    assert (expert.spec.native_rate_hz, expert.spec.dim) == (25.0, single.shape[2])
    assert mask.sum(axis=1).tolist() == [38, 15]
    for row, pairs in enumerate((37, 15)):
        expected = (single[row, 0 : 2 * pairs : 2] + single[row, 1 : 2 * pairs : 2]) / 2
        np.testing.assert_allclose(pooled[row, :pairs], expected, atol=1e-4)
    # The odd frame at the end of the first clip has no partner.
    np.testing.assert_allclose(pooled[0, 37], single[0, 74], atol=1e-4)


def test_pooled_frames_of_a_clip_in_several_windows(checkpoints: dict[str, Path]) -> None:
    waveforms = np.tile(_clips()[0][:1], (1, 4))
    lengths = np.array([waveforms.shape[1]])
    single, _ = load_expert("speech_encoder", _settings(checkpoints["whisper"], window_s=2.0))(waveforms, lengths)
    pooled, mask = load_expert("speech_encoder", _settings(checkpoints["whisper"], window_s=2.0, pool_frames=2))(waveforms, lengths)
    assert mask.all()
    np.testing.assert_allclose(pooled[0], single[0].reshape(150, 2, -1).mean(axis=1), atol=1e-4)


def test_window_and_pooling_are_part_of_the_spec_and_the_fingerprint(checkpoints: dict[str, Path]) -> None:
    chosen = [_settings(checkpoints["whisper"], **values) for values in ({}, {"window_s": 2.0}, {"pool_frames": 2})]
    experts = [load_expert("speech_encoder", settings) for settings in chosen]
    assert len({neural_fingerprint(expert, settings) for expert, settings in zip(experts, chosen, strict=True)}) == 3
    assert not {"window_s", "pool_frames"} & set(experts[0].spec.to_json())
    for expert in experts:
        assert build_expert(spec_from_json(expert.spec.to_json())).spec == expert.spec


@pytest.mark.parametrize(
    ("name", "implementation", "values", "message"),
    [
        ("whisper", "speech_encoder", {"window_s": 3.5}, r"experts.*window_s.*3.5.*0.02 to 3 seconds"),
        ("whisper", "speech_encoder", {"window_s": 0.001}, "window_s"),
        ("hubert", "speech_encoder", {"window_s": 2.0}, "only Whisper"),
        ("mimi", "codec", {"pool_frames": 2}, "codec does not average its frames"),
    ],
)
def test_settings_that_a_checkpoint_does_not_support(
    name: str, implementation: str, values: dict[str, object], message: str, checkpoints: dict[str, Path]
) -> None:
    with pytest.raises(ExpertError, match=message):
        load_expert(implementation, _settings(checkpoints[name], implementation, **values))
