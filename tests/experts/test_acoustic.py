from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coat_core.errors import ExpertError
from coat_core.experts.catalogue import ACOUSTIC, load_expert
from coat_core.settings import load_settings

RATE = 16000
KINDS = {
    "log_mel": "reconstruction",
    "mfcc": "speech",
    "spectral_events": "events",
    "prosody": "affect",
    "f0_bins": "pitch",
    "sound_classifier": "events",
    "style_classifier": "affect",
    "word_classifier": "speech",
}


def _hop(name: str) -> int:
    return 1280 if name.endswith("_classifier") else 320


def _noise(length: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    time = np.arange(length) / RATE
    sound = 0.3 * np.sin(2 * np.pi * (200 + 40 * time) * time) * (np.sin(9 * time) > -0.3) + 0.02 * rng.standard_normal(length)
    return sound.astype(np.float32)


def _features(name: str, waveform: np.ndarray) -> np.ndarray:
    features, mask = load_expert(name)(waveform[None].astype(np.float32), np.array([len(waveform)]))
    assert mask.all()
    return features[0]


def test_the_default_params_name_one_expert_of_each_kind() -> None:
    chosen = {key: load_expert(expert.implementation).spec for key, expert in load_settings().experts.items()}
    assert {spec.kind for spec in chosen.values()} == set(KINDS.values())


@pytest.mark.parametrize("name", ACOUSTIC)
def test_spec_and_shapes(name: str) -> None:
    expert = load_expert(name)
    spec = expert.spec
    assert (spec.implementation, spec.kind, spec.native_rate_hz, spec.sample_rate_hz) == (name, KINDS[name], RATE / _hop(name), RATE)
    assert len(spec.dim_names) == spec.dim == len(set(spec.dim_names))
    assert spec.licence == "Apache-2.0"
    assert spec.commercial_use
    waveforms = np.zeros((2, 7000), dtype=np.float32)
    waveforms[0, :5000], waveforms[1, :6401] = _noise(5000), _noise(6401, 1)
    features, mask = expert(waveforms, np.array([5000, 6401]))
    frames = [-(-length // _hop(name)) for length in (5000, 6401)]
    assert features.shape == (2, frames[1], spec.dim)
    assert features.dtype == np.float32
    assert mask.sum(axis=1).tolist() == frames
    assert not mask[0, frames[0] :].any()
    assert not features[0, frames[0] :].any()


@pytest.mark.parametrize("name", ACOUSTIC)
@settings(max_examples=12, deadline=None, derandomize=True)
@given(lengths=st.lists(st.integers(1, 9000), min_size=1, max_size=3), padding=st.integers(0, 700))
def test_a_clip_is_the_same_alone_and_in_any_batch(name: str, lengths: list[int], padding: int) -> None:
    expert = load_expert(name)
    # Samples after a clip must have no effect, so they are loud here.
    batch = np.full((len(lengths), max(lengths) + padding), 0.9, dtype=np.float32)
    for row, length in enumerate(lengths):
        batch[row, :length] = _noise(length, row)
    features, mask = expert(batch, np.array(lengths))
    for row, length in enumerate(lengths):
        alone, valid = expert(_noise(length, row)[None], np.array([length]))
        frames = -(-length // _hop(name))
        assert valid.shape == (1, frames)
        assert mask[row].sum() == frames
        np.testing.assert_array_equal(features[row, :frames], alone[0])


@pytest.mark.parametrize("name", ACOUSTIC)
@pytest.mark.parametrize(
    "sound",
    [
        np.zeros(16000),
        np.full(16000, 0.7),
        _noise(800),
        np.zeros(800),
        np.ones(1),
        np.clip(30 * _noise(16000), -1, 1),
        np.sign(np.sin(np.arange(16000) / 9)),
        1e-6 * _noise(16000),
        np.eye(1, 16000, 8000)[0],
    ],
    ids=["silence", "dc", "50ms", "50ms silence", "one sample", "clipped", "square", "faint", "click"],
)
def test_unusual_clips_have_finite_features(name: str, sound: np.ndarray) -> None:
    features = _features(name, sound)
    assert features.shape[0] == -(-len(sound) // _hop(name))
    assert np.isfinite(features.astype(np.float16)).all()


@pytest.mark.parametrize("at", [0.0, 0.5, 0.013, 1.2345, 1.99])
@pytest.mark.parametrize(
    ("name", "dim"), [("log_mel", None), ("spectral_events", "level (dB)"), ("spectral_events", "onset"), ("prosody", "loudness (dB)")]
)
def test_a_click_changes_its_own_frame(name: str, dim: str | None, at: float) -> None:
    sound = np.zeros(2 * RATE)
    sound[int(at * RATE)] = 0.9
    features = _features(name, sound)
    track = features.mean(axis=1) if dim is None else features[:, load_expert(name).spec.dim_names.index(dim)]
    # The loudest frame is the nearest; an onset is up to a frame earlier, in the first window that contains it.
    assert abs(int(track.argmax()) - at * 50) <= (1.0 if dim == "onset" else 0.5)


def _so_far(sound: np.ndarray) -> np.ndarray:
    return _features("spectral_events", sound)[:, load_expert("spectral_events").spec.dim_names.index("events so far")]


def test_events_so_far_counts_separate_sounds() -> None:
    rng = np.random.default_rng(3)
    for count in range(1, 6):
        sound = 0.002 * rng.standard_normal(4 * RATE)
        for i in range(count):
            start = int((0.3 + 0.6 * i) * RATE)
            time = np.arange(RATE // 4) / RATE
            sound[start : start + len(time)] += 0.4 * np.sin(2 * np.pi * (300 + 211 * i) * time) * np.hanning(len(time)) ** 0.3
        assert _so_far(sound)[[0, -1]].tolist() == [0, count]


def test_a_rattle_is_one_event() -> None:
    rng = np.random.default_rng(4)
    burst = 0.3 * rng.standard_normal(RATE // 2) * (np.sin(2 * np.pi * 14 * np.arange(RATE // 2) / RATE) > 0)
    sound = 0.001 * rng.standard_normal(2 * RATE)
    sound[RATE // 2 : RATE] += burst
    sound[RATE * 5 // 4 : RATE * 7 // 4] += burst
    assert _so_far(sound)[-1] == 2


def test_mfcc_ignores_level_and_has_zero_mean() -> None:
    sound = _noise(16000)
    loud, soft = _features("mfcc", sound), _features("mfcc", sound * 0.25)
    np.testing.assert_allclose(loud.mean(axis=0), 0.0, atol=1e-5)
    assert np.abs(loud - soft).mean() < 0.05


def test_prosody_follows_loudness_and_pitch() -> None:
    names = load_expert("prosody").spec.dim_names
    time = np.arange(2 * RATE) / RATE
    rising = 0.3 * np.sin(2 * np.pi * (150 * time + 40 * time**2))
    features = _features("prosody", rising)
    change = features[10:-10, names.index("F0 change (semitones/s)")]
    truth = 12 * (80 / (150 + 80 * (np.arange(100) / 50))) / np.log(2)
    np.testing.assert_allclose(change, truth[10:-10], rtol=0.1)
    louder = _features("prosody", rising * 2)
    gain = (louder - features)[:, names.index("loudness (dB)")]
    # Bands at the floor do not increase, so the gain is less than 6 dB.
    assert 4.5 < gain.mean() < 6.1


@pytest.mark.parametrize("lengths", [[0], [101], [1, 2]])
def test_lengths_out_of_range_are_refused(lengths: list[int]) -> None:
    with pytest.raises(ExpertError, match="length"):
        load_expert("log_mel")(np.zeros((1, 100), dtype=np.float32), np.array(lengths))


def test_an_unknown_expert_lists_the_known_ones() -> None:
    with pytest.raises(ExpertError, match=r"'log_mell'.*f0_bins, log_mel, mfcc"):
        load_expert("log_mell")
