from __future__ import annotations

import numpy as np
import pytest

from coat_core.experts.acoustic.f0 import track_pitch
from coat_core.experts.catalogue import load_expert

RATE = 16000


def _tone(hz: float, harmonics: int, seconds: float = 0.6, level: float = 0.2) -> np.ndarray:
    time = np.arange(int(seconds * RATE)) / RATE
    return level * sum(np.sin(2 * np.pi * hz * k * time + k) / k for k in range(1, harmonics + 1) if hz * k < 7800)


def _bins(waveform: np.ndarray) -> np.ndarray:
    features, _ = load_expert("f0_bins")(waveform[None].astype(np.float32), np.array([len(waveform)]))
    return features[0]


@pytest.mark.parametrize("harmonics", [1, 3, 12])
@pytest.mark.parametrize("hz", [float(round(hz, 1)) for hz in np.geomspace(70, 1500, 14)])
def test_tones_are_found_within_half_a_semitone_in_every_frame(hz: float, harmonics: int) -> None:
    track = track_pitch(_tone(hz, harmonics))
    assert (track.f0_hz > 0).all()
    assert np.abs(12 * np.log2(track.f0_hz / hz)).max() < 0.5
    assert (track.voicing > 0.5).all()
    features = _bins(_tone(hz, harmonics))
    assert set(features[:, :-1].argmax(axis=1)) <= {int(np.floor(s)) for s in 12 * np.log2(hz / 55) + np.array([0.0, 0.45, 0.55, 1.0])}


def test_a_missing_fundamental_and_noise_cause_no_octave_error() -> None:
    time = np.arange(RATE) / RATE
    sound = sum(np.sin(2 * np.pi * 180 * k * time) for k in (2, 3, 4, 5)) / 8 + 0.03 * np.random.default_rng(0).standard_normal(RATE)
    track = track_pitch(sound)
    assert np.abs(12 * np.log2(np.maximum(track.f0_hz, 1) / 180))[3:-3].max() < 0.5


@pytest.mark.parametrize(
    "sound",
    [np.zeros(RATE), np.full(RATE, 0.5), 0.1 * np.random.default_rng(1).standard_normal(RATE), _tone(220, 3, level=1e-4)],
    ids=["silence", "dc", "noise", "inaudible tone"],
)
def test_a_clip_without_pitch_is_unvoiced(sound: np.ndarray) -> None:
    features = _bins(sound)
    assert (features[:, -1] < 0.5).all()
    assert not features[:, :-1].any()


def test_bins_sum_to_one_in_voiced_frames_only() -> None:
    sound = np.concatenate([_tone(300, 5), np.zeros(RATE // 2), _tone(90, 9)])
    features = _bins(sound)
    voiced = features[:, -1] > 0.5
    assert 0.4 < voiced.mean() < 0.8
    np.testing.assert_allclose(features[:, :-1].sum(axis=1), voiced, atol=1e-6)
    np.testing.assert_allclose(features.astype(np.float16)[:, :-1].astype(float).sum(axis=1), voiced, atol=2e-3)


def test_bin_names_are_the_notes() -> None:
    names = load_expert("f0_bins").spec.dim_names
    for hz, note in ((55, "A1"), (110, "A2"), (261.6, "C4"), (440, "A4"), (698.5, "F5"), (1760, "A6")):
        assert names[round(12 * np.log2(hz / 55))] == note
    assert names[-1] == "voicing"
