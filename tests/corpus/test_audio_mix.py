"""The level of a clip is that of the mono waveform that the models receive; channels that cancel are refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from coat_core.corpus.audio import FLOOR_DBFS, decode, measure, read_samples, to_dbfs
from coat_core.errors import AudioError
from tests.testing.audio_files import noise

X, Y = noise(), noise(seed=1)
CANCELLING = {
    "two opposite": [X, -X],
    "four opposite": [X, -X, Y, -Y],
    "three": [X / 2, X / 2, -X],
    "eight": [X, -X] * 4,
    "nearly": [X, -X + 0.02 * Y],
    "unequal": [X, -0.9 * X],
    "one half": [X, np.where(np.arange(16000) < 8000, X, -X)],
    "one second of a minute": [np.tile(X, 60), np.tile(X, 60) * np.where(np.arange(960_000) < 944_000, 1, -1)],
    "every ninth second": [np.tile(X, 18), np.tile(X, 18) * np.where(np.arange(288_000) // 8000 % 9 == 4, -1, 1)],
}


def write(folder: Path, channels: list[np.ndarray], rate: int = 16000) -> Path:
    soundfile.write(folder / "clip.wav", np.stack(channels, axis=1), rate, subtype="FLOAT")
    return folder / "clip.wav"


@pytest.mark.parametrize("kind", CANCELLING)
def test_channels_that_cancel_are_refused_by_measure_and_decode(tmp_path: Path, kind: str) -> None:
    path = write(tmp_path, CANCELLING[kind])
    assert "cancel in the mono mix" in str(measure(path).error)
    with pytest.raises(AudioError, match=r"clip\.wav.*give a `channel`"):
        decode(path)
    assert np.allclose(read_samples(path)[1], np.stack(CANCELLING[kind], axis=1), atol=1e-6)


@pytest.mark.parametrize("start_s", [0.0, 3.0, 9.5])
def test_a_single_short_effect_in_opposite_phase_is_not_a_fault(tmp_path: Path, start_s: float) -> None:
    left, right = (np.concatenate([noise(seed=seed) for seed in range(first, first + 10)]) for first in (0, 10))
    effect = slice(int(start_s * 16000), int(start_s * 16000) + 8000)
    right[effect] = -left[effect]
    path = write(tmp_path, [left, right])
    assert measure(path).error is None
    assert np.allclose(decode(path), (left + right) / 2, atol=1e-6)


@pytest.mark.parametrize("channels", [[X, X], [X, Y], [X, 0 * X], [X, -0.3 * X], [noise(seed=i) for i in range(8)]])
def test_other_channels_are_averaged(tmp_path: Path, channels: list[np.ndarray]) -> None:
    path = write(tmp_path, channels)
    assert np.allclose(decode(path), np.mean(channels, axis=0), atol=1e-6)


@pytest.mark.parametrize(("rate", "channels"), [(8000, 1), (16000, 1), (16000, 2), (44100, 1), (48000, 3)])
def test_the_level_is_that_of_the_decoded_waveform(tmp_path: Path, rate: int, channels: int) -> None:
    path = write(tmp_path, list(np.atleast_2d(noise(1.0, rate, channels).T)), rate)
    level = to_dbfs(float(np.sqrt(np.mean(np.square(decode(path, sample_rate_hz=min(rate, 16000)))))))
    assert measure(path).rms_dbfs == pytest.approx(level, abs=1e-3)


def test_a_sound_above_the_band_of_the_models_is_silent(tmp_path: Path) -> None:
    tone = 0.3 * np.sin(2 * np.pi * 15000 * np.arange(96000) / 96000)
    facts = measure(write(tmp_path, [tone], 96000))
    assert facts.rms_dbfs is not None
    assert facts.rms_dbfs < -60
    assert facts.peak_dbfs == pytest.approx(to_dbfs(0.3), abs=0.1)


def test_silence_does_not_cancel(tmp_path: Path) -> None:
    silent = np.zeros(16000)
    assert measure(write(tmp_path, [silent, silent])).rms_dbfs == FLOOR_DBFS
    assert measure(write(tmp_path, [1e-5 * X, -1e-5 * X])).error is None
