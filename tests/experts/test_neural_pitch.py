from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest

from coat_core.errors import ExpertError
from coat_core.experts.base import Expert
from coat_core.experts.catalogue import load_expert
from coat_core.settings import ExpertSettings

SR, HOP = 16000, 256


@pytest.fixture(scope="module")
def pitch() -> Expert:
    pytest.importorskip("swift_f0", reason="the optional extra `pitch` (swift-f0, onnxruntime) is not installed")
    return load_expert("neural_pitch", ExpertSettings(implementation="neural_pitch"))


def _harmonic(hz: float, samples: int, start: int = 0) -> np.ndarray:
    time = np.arange(samples) / SR
    tone = sum(np.sin(2 * np.pi * hz * k * time) / k for k in range(1, max(2, int(7000 / hz))))
    return np.asarray(np.where(np.arange(samples) >= start, 0.1 * tone, 0.0), dtype=np.float32)


def _features(expert: Expert, waveform: np.ndarray) -> np.ndarray:
    features, mask = expert(waveform[None].astype(np.float32), np.array([len(waveform)]))
    assert mask.all()
    return np.asarray(features[0])


def test_the_spec_is_that_of_the_acoustic_pitch_expert(pitch: Expert) -> None:
    acoustic = load_expert("f0_bins").spec
    assert (pitch.spec.kind, pitch.spec.target, pitch.spec.dim_names) == (acoustic.kind, acoustic.target, acoustic.dim_names)
    assert pitch.spec.native_rate_hz == SR / HOP
    assert (pitch.spec.licence, pitch.spec.commercial_use) == ("MIT", True)
    assert "NSynth" in pitch.spec.fitted_on


@pytest.mark.parametrize("hz", [58.0, 82.4, 110.0, 220.0, 311.1, 440.0, 880.0, 1318.5])
def test_a_harmonic_tone_has_its_bin(pitch: Expert, hz: float) -> None:
    features = _features(pitch, _harmonic(hz, 16123))[2:-1]
    semitone = 12 * np.log2(hz / 55)
    assert (features[:, -1] >= 0.5).mean() > 0.95
    voiced = features[features[:, -1] >= 0.5]
    assert (voiced[:, :-1].argmax(axis=1) == round(semitone)).all()
    np.testing.assert_allclose(voiced[:, :-1].sum(axis=1), 1.0, rtol=1e-5)
    np.testing.assert_allclose((voiced[:, :-1] * np.arange(61)).sum(axis=1), semitone, atol=0.15)


@pytest.mark.parametrize("hz", [330.0, 440.0, 880.0, 1700.0])
def test_a_pure_tone_has_its_bin(pitch: Expert, hz: float) -> None:
    features = _features(pitch, 0.3 * np.sin(2 * np.pi * hz * np.arange(20000) / SR))[8:-8]
    assert (features[:, -1] >= 0.5).all()
    assert (features[:, :-1].argmax(axis=1) == round(12 * np.log2(hz / 55))).all()


def test_sounds_without_pitch_or_bin_are_unvoiced(pitch: Expert) -> None:
    noise = 0.1 * np.random.default_rng(0).standard_normal(32000)
    for sound, allowed in ((np.zeros(7001), 0.0), (noise, 0.03), (_harmonic(1975.5, 16000), 0.0)):
        features = _features(pitch, sound)
        voiced = features[:, -1] >= 0.5
        assert voiced.mean() <= allowed
        assert (features[~voiced, :-1] == 0).all()
        assert (features[~voiced, -1] <= 0.4501).all()


@pytest.mark.parametrize("samples", [16000, 16001, 23456, 24063])
@pytest.mark.parametrize("where", ["start", "middle", "end"])
def test_an_onset_is_in_its_frame(pitch: Expert, samples: int, where: str) -> None:
    at = {"start": 2000, "middle": samples // 2 + 77, "end": samples - 1900}[where]
    hiss = 1e-4 * np.random.default_rng(1).standard_normal(samples)
    features = _features(pitch, _harmonic(220.0, samples, start=at) + hiss)
    assert len(features) == -(-samples // HOP)
    first = int(np.flatnonzero(features[:, -1] >= 0.5)[0])
    assert abs(first - at / HOP) <= 1.0
    assert (features[first + 1 : -1, :-1].argmax(axis=1) == 24).all()
    # A change of note appears in its frame.
    step = np.where(np.arange(samples) < at, _harmonic(220.0, samples), _harmonic(330.0, samples))
    high = _features(pitch, step)[:, :-1].argmax(axis=1) == 31
    assert abs(int(np.flatnonzero(high)[0]) - at / HOP) <= 1.0


def test_a_batch_equals_its_clips_one_by_one(pitch: Expert) -> None:
    clips = [_harmonic(100.0 + 37 * n, samples) for n, samples in enumerate((3200, 16001, 9999, 25600))]
    padded = np.full((4, 30000), 0.7, dtype=np.float32)
    for row, clip in zip(padded, clips, strict=True):
        row[: len(clip)] = clip
    features, mask = pitch(padded, np.array([len(clip) for clip in clips]))
    for row, valid, clip in zip(features, mask, clips, strict=True):
        assert valid.sum() == -(-len(clip) // HOP)
        assert valid[: valid.sum()].all()
        np.testing.assert_array_equal(row[valid], _features(pitch, clip))


def test_a_long_clip_in_windows_equals_the_whole(pitch: Expert) -> None:
    time = np.arange(SR * 40 + 17) / SR
    glide = np.cumsum(200 * 2 ** (np.sin(2 * np.pi * 0.31 * time))) / SR
    sound = 0.1 * sum(np.sin(2 * np.pi * k * glide) / k for k in range(1, 12))
    windowed = _features(pitch, sound)
    detector: Any = pitch.detector  # type: ignore[attr-defined]
    whole = np.pad(sound, (0, -len(sound) % HOP)).astype(np.float32)
    hertz, confidence, _ = detector._run(whole, 46.875, 2093.75)
    # The seam is at frame 1875 (30 s). The windows overlap by the receptive field, so the seam changes nothing either.
    np.testing.assert_allclose(windowed[:, -1], np.where(confidence >= 0.5, confidence, np.minimum(confidence, 0.45)), atol=1e-3)
    voiced = (confidence >= 0.5) & (windowed[:, -1] >= 0.5)
    assert voiced[1800:1950].mean() > 0.9
    np.testing.assert_allclose(
        (windowed[voiced, :-1] * np.arange(61)).sum(axis=1), 12 * np.log2(hertz[voiced] / 55), atol=0.06
    )  # fmt: skip


def test_it_agrees_with_the_acoustic_expert_on_a_glide_in_noise(pitch: Expert) -> None:
    time = np.arange(3 * SR) / SR
    hertz = 100 * 2.5 ** (time / 3)
    phase = 2 * np.pi * np.cumsum(hertz) / SR
    sound = 0.1 * sum(np.sin(k * phase) / k for k in range(1, 25)) + 0.03 * np.random.default_rng(2).standard_normal(len(time))
    for expert in (pitch, load_expert("f0_bins")):
        features = _features(expert, sound)
        truth = 12 * np.log2(np.interp(np.arange(len(features)) / expert.spec.native_rate_hz, time, hertz) / 55)
        voiced = features[:, -1] >= 0.5
        error = np.abs((features[:, :-1] * np.arange(61)).sum(axis=1) - truth)[voiced]
        assert voiced.mean() > 0.95
        assert np.quantile(error, 0.95) < 0.2


@pytest.mark.parametrize(
    ("field", "value"), [("checkpoint", "x/y"), ("revision", "0" * 40), ("layers", (3,)), ("dtype", "bfloat16")]
)  # fmt: skip
def test_settings_without_effect_are_refused(field: str, value: Any) -> None:
    with pytest.raises(ExpertError, match=rf"experts\.\*\.{field}"):
        load_expert("neural_pitch", ExpertSettings(implementation="neural_pitch", **{field: value}))


def test_without_its_packages_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "swift_f0", None)
    with pytest.raises(ExpertError, match=r"coat\[pitch\]"):
        load_expert("neural_pitch")
