"""Frame times of neural experts: events change their own frame, and batches and padding have no effect."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from coat_core.experts.neural.base import NeuralExpert
from tests.testing.expert_checkpoints import IMPLEMENTATIONS

TinyExpert = Callable[[str], NeuralExpert]
NAMES = tuple(IMPLEMENTATIONS)
CAUSAL = ("mimi", "encodec")
SPEECH = ("hubert", "wav2vec2", "wavlm", "whisper")
LENGTHS_S = (0.7301, 1.6180, 2.3371)
"""Lengths that are no multiple of any hop."""


def features_of(expert: NeuralExpert, waveform: np.ndarray) -> np.ndarray:
    features, mask = expert(waveform[None].astype(np.float32), np.array([len(waveform)]))
    assert mask.all()
    return features[0]


def noise(samples: int, seed: int = 0, level: float = 0.1) -> np.ndarray:
    return (level * np.random.default_rng(seed).standard_normal(samples)).astype(np.float32)


def change(expert: NeuralExpert, before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Return the distance between the features of two clips, per frame `[T]`."""
    return np.linalg.norm(features_of(expert, after) - features_of(expert, before), axis=1)


def begins(expert: NeuralExpert, background: np.ndarray, event: np.ndarray, place: int) -> int:
    """Return the first frame that an event of 0.4 s, starting at sample `place`, changes.

    Causal and local models: the first frame that differs from the background at all. The other models use the whole clip (normalisation
    over time, attention), so every frame differs a little: the clip is compared with one that has the same event 1.2 s away, and the
    result is the first frame near `place` above a third of the difference there.
    """
    rate = expert.spec.sample_rate_hz
    track_of = lambda start: np.where(  # noqa: E731
        (np.arange(len(background)) >= start) & (np.arange(len(background)) < start + 0.4 * rate), event, background
    ).astype(np.float32)
    if expert.spec.implementation in ("codec", "audio_events"):
        track = change(expert, background, track_of(place))
        return int((track > 1e-4 * track.max()).argmax())
    away = place + int(1.2 * rate) * (1 if place < len(background) // 2 else -1)
    reach = round(0.35 * expert.spec.native_rate_hz)
    first = max(0, place // expert.encoder.hop - reach)
    track = change(expert, track_of(away), track_of(place))[first : first + 2 * reach]
    return first + int((track > np.quantile(track, 0.9) / 3).argmax())


@pytest.mark.parametrize("length_s", LENGTHS_S)
@pytest.mark.parametrize("name", NAMES)
def test_every_frame_of_a_clip_exists_and_is_valid(name: str, length_s: float, tiny_expert: TinyExpert) -> None:
    expert = tiny_expert(name)
    spec = expert.spec
    samples = int(length_s * spec.sample_rate_hz)
    features, mask = expert(noise(samples)[None], np.array([samples]))
    frames = -(-samples // expert.encoder.hop)
    assert frames == np.ceil(samples / spec.sample_rate_hz * spec.native_rate_hz)
    assert features.shape == (1, frames, spec.dim)
    assert features.dtype == np.float32
    assert mask.shape == (1, frames)
    assert mask.all()
    assert np.isfinite(features).all()
    assert features.std() > 0
    if spec.target == "posteriors":
        assert ((features > 0) & (features < 1)).all()


@pytest.mark.parametrize("length_s", LENGTHS_S)
@pytest.mark.parametrize("name", NAMES)
def test_a_click_changes_its_own_frame(name: str, length_s: float, tiny_expert: TinyExpert) -> None:
    expert = tiny_expert(name)
    samples = int(length_s * expert.spec.sample_rate_hz)
    for place in (0, 1, samples // 5, samples // 2, int(0.77 * samples), samples - 2, samples - 1):
        background = noise(samples)
        click = background.copy()
        click[place : place + 4] += 0.9
        track = change(expert, background, click)
        frame = place // expert.encoder.hop
        if name in CAUSAL:
            # A causal model: the first frame that changes at all is the click's own (EnCodec reflects its beginning).
            first = int((track > 1e-4 * track.max()).argmax())
            assert first == frame or (name == "encodec" and frame <= 6 and first <= frame), (place, first, frame)
        else:
            assert abs(int(track.argmax()) - frame) <= 1, (place, int(track.argmax()), frame)


@pytest.mark.parametrize("at", [0.0, 0.12, 0.5, 0.83])
@pytest.mark.parametrize("name", NAMES)
def test_a_note_begins_in_its_own_frame(name: str, at: float, tiny_expert: TinyExpert) -> None:
    expert = tiny_expert(name)
    rate = expert.spec.sample_rate_hz
    samples = int(2.7183 * rate)
    place = int(at * samples)
    background = noise(samples, level=0.05)
    note = 0.3 * sum(np.sin(2 * np.pi * 440 * harmonic * np.arange(samples) / rate) / harmonic for harmonic in (1, 2, 3))
    assert abs(begins(expert, background, background + note, place) - place // expert.encoder.hop) <= 1


@pytest.mark.parametrize("at", [0.0, 0.15, 0.5, 0.83])
@pytest.mark.parametrize("name", SPEECH)
def test_another_voice_begins_in_its_own_frame(name: str, at: float, tiny_expert: TinyExpert) -> None:
    expert = tiny_expert(name)
    samples = int(2.7183 * 16000)
    place = int(at * samples)
    first, second = voice(samples, 110.0, (600, 1100, 2400)), voice(samples, 230.0, (350, 2300, 3100))
    assert abs(begins(expert, first, second, place) - place // expert.encoder.hop) <= 1


def voice(samples: int, pitch_hz: float, formants_hz: tuple[int, ...]) -> np.ndarray:
    """Return a vowel: harmonics of a pitch, weighted by formants."""
    time = np.arange(samples) / 16000
    harmonics = np.arange(1, int(7000 / pitch_hz)) * pitch_hz
    weights = sum(np.exp(-0.5 * ((harmonics - formant) / 150.0) ** 2) for formant in formants_hz) + 0.01
    sound = sum(weight * np.sin(2 * np.pi * hz * time + hz) for weight, hz in zip(weights, harmonics, strict=True))
    return (0.2 * sound / np.abs(sound).max() + noise(samples, level=0.005)).astype(np.float32)


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_equals_its_clips_one_by_one_with_any_padding(name: str, tiny_expert: TinyExpert) -> None:
    expert = tiny_expert(name)
    rate, hop = expert.spec.sample_rate_hz, expert.encoder.hop
    lengths = [1, 7, hop, hop + 1, rate // 3, rate, int(1.7183 * rate), int(2.3371 * rate)]
    clips = [noise(length, seed, level=0.03 * (seed + 1)) for seed, length in enumerate(lengths)]
    for padding in (0, 4321):
        # Samples after a clip must have no effect, so they are loud here.
        batch = np.full((len(clips), max(lengths) + padding), 0.9, dtype=np.float32)
        for row, clip in zip(batch, clips, strict=True):
            row[: len(clip)] = clip
        features, mask = expert(batch, np.array(lengths))
        for row, clip in enumerate(clips):
            alone = features_of(expert, clip)
            assert mask[row].sum() == len(alone) == -(-len(clip) // hop)
            assert mask[row, : len(alone)].all()
            assert not features[row, len(alone) :].any()
            np.testing.assert_allclose(features[row, : len(alone)], alone, rtol=0, atol=1e-5 * max(1.0, np.abs(alone).max()))


@pytest.mark.parametrize("name", NAMES)
def test_the_size_of_batches_has_no_effect(name: str, tiny_expert: TinyExpert) -> None:
    expert = tiny_expert(name)
    lengths = np.array([9001, 30011, 12345, 2, 44444])
    batch = noise(5 * 44444).reshape(5, -1)
    together, _ = expert(batch, lengths)
    apart, _ = replace(expert, batch_seconds=0.001)(batch, lengths)
    np.testing.assert_allclose(together, apart, rtol=0, atol=1e-5 * max(1.0, np.abs(apart).max()))


def test_batches_have_at_most_batch_seconds(tiny_expert: TinyExpert, monkeypatch: pytest.MonkeyPatch) -> None:
    expert = replace(tiny_expert("hubert"), batch_seconds=2.0)
    seen: list[float] = []
    encode = expert.encoder.encode
    monkeypatch.setattr(
        expert.encoder, "encode", lambda pieces: (seen.append(len(pieces) * max(p.stop - p.start for p in pieces) / 50), encode(pieces))[1]
    )
    expert(noise(7 * 20000).reshape(7, -1), np.array([20000, 16000, 8000, 4000, 4000, 16000, 320]))
    assert max(seen) <= 2.0
    assert len(seen) < 7
