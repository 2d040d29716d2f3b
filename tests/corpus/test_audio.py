"""Headers, limits, decoding, measuring and writing of audio files."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from coat_core.corpus.audio import FLOOR_DBFS, decode, flac_bytes, measure, read_header, to_dbfs, write_flac
from coat_core.errors import AudioError
from tests.testing.recordings import RECORDINGS, needs_recordings


def noise(seconds: float = 1.0, rate: int = 16000, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-0.3, 0.3, int(seconds * rate))


def with_flac_length(data: bytes, frames: int) -> bytes:
    """Rewrite the 36-bit total of STREAMINFO (bytes 18-25 contain rate, channels, depth and total)."""
    word = int.from_bytes(data[18:26], "big") >> 36 << 36 | frames
    return data[:18] + word.to_bytes(8, "big") + data[26:]


def with_wav_length(data: bytes, size: int) -> bytes:
    at = data.index(b"data") + 4
    return data[:at] + size.to_bytes(4, "little") + data[at + 4 :]


@pytest.mark.parametrize(
    ("suffix", "rate", "channels"), [("wav", 8000, 1), ("flac", 16000, 1), ("ogg", 44100, 2), ("mp3", 44100, 1), ("wav", 48000, 3)]
)
def test_every_format_decodes_to_mono_16_khz(tmp_path: Path, suffix: str, rate: int, channels: int) -> None:
    path = tmp_path / f"clip.{suffix}"
    tone = 0.3 * np.sin(2 * np.pi * 440 * np.arange(rate) / rate)
    soundfile.write(path, np.tile(tone[:, None], (1, channels)), rate)
    waveform = decode(path)
    assert waveform.dtype == np.float32
    assert waveform.ndim == 1
    assert abs(waveform.size - 16000) <= 0.15 * 16000
    spectrum = np.abs(np.fft.rfft(waveform[2000:10000] * np.hanning(8000)))
    assert abs(np.argmax(spectrum) * 2.0 - 440) <= 4
    assert read_header(path).channels == channels


def test_channels_are_averaged(tmp_path: Path) -> None:
    left, right = noise(), noise(seed=1)
    soundfile.write(tmp_path / "clip.wav", np.stack([left, right], axis=1), 16000)
    assert np.abs(decode(tmp_path / "clip.wav") - (left + right) / 2).max() < 1e-4


def test_flac_keeps_the_samples_and_its_bytes_are_reproducible(tmp_path: Path) -> None:
    waveform = noise()
    write_flac(tmp_path / "a.flac", waveform, 16000)
    write_flac(tmp_path / "b.flac", waveform.copy(), 16000)
    assert (tmp_path / "a.flac").read_bytes() == (tmp_path / "b.flac").read_bytes()
    assert np.abs(decode(tmp_path / "a.flac") - waveform).max() <= 0.5 / 32768 + 1e-7


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(values=st.lists(st.floats(-2, 2), min_size=1, max_size=300))
def test_flac_clips_at_full_scale_without_overflow(tmp_path: Path, values: list[float]) -> None:
    write_flac(tmp_path / "clip.flac", np.array(values), 16000)
    assert np.allclose(decode(tmp_path / "clip.flac"), np.clip(values, -1, 1), atol=1.01 / 32768)


@pytest.mark.parametrize("waveform", [np.zeros(0), np.zeros((2, 2)), np.array([0.0, np.nan])])
def test_flac_refuses_an_invalid_waveform(waveform: np.ndarray) -> None:
    with pytest.raises(AudioError):
        flac_bytes(waveform, 16000)


@pytest.mark.parametrize("kind", ["flac", "wav"])
def test_a_ten_hour_header_is_refused_without_allocating_memory(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"long.{kind}"
    soundfile.write(path, noise(0.5), 16000)
    frames = 36000 * 16000
    data = path.read_bytes()
    path.write_bytes(with_flac_length(data, frames) if kind == "flac" else with_wav_length(data, 2 * frames))
    tracemalloc.start()
    with pytest.raises(AudioError, match=r"long\.(flac|wav)"):
        decode(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_000_000
    assert measure(path).error is not None


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(frames=st.integers(0, 2**36 - 1))
def test_a_flac_that_declares_another_number_of_samples_than_it_contains_is_refused(tmp_path: Path, frames: int) -> None:
    path = tmp_path / "clip.flac"
    data = flac_bytes(noise(0.1), 16000)
    path.write_bytes(with_flac_length(data, frames))
    if frames in (0, 1600):
        assert decode(path).size == 1600
    else:
        with pytest.raises(AudioError, match=r"clip\.flac"):
            decode(path)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(kept=st.integers(0, 99), suffix=st.sampled_from(["flac", "wav"]))
def test_a_truncated_file_is_refused_by_name(tmp_path: Path, kept: int, suffix: str) -> None:
    whole, path = tmp_path / f"whole.{suffix}", tmp_path / f"cut.{suffix}"
    if not whole.exists():
        soundfile.write(whole, noise(0.5), 16000)
    data = whole.read_bytes()
    path.write_bytes(data[: len(data) * kept // 100])
    with pytest.raises(AudioError, match=rf"cut\.{suffix}"):
        decode(path)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=200), suffix=st.sampled_from(["wav", "flac", "ogg", "mp3"]))
def test_random_bytes_are_an_audio_error(tmp_path: Path, data: bytes, suffix: str) -> None:
    path = tmp_path / f"junk.{suffix}"
    path.write_bytes((b"RIFF\x24\x00\x00\x00WAVE" if suffix == "wav" else b"") + data)
    facts = measure(path)
    assert facts.error is not None
    assert f"junk.{suffix}" in facts.error


def test_a_text_file_a_missing_file_and_a_folder_are_errors(tmp_path: Path) -> None:
    (tmp_path / "notes.wav").write_text("this is not audio\n" * 20)
    with pytest.raises(AudioError, match=r"notes\.wav.*next step"):
        decode(tmp_path / "notes.wav")
    with pytest.raises(AudioError, match="missing"):
        decode(tmp_path / "absent.wav")
    assert "missing" in str(measure(tmp_path).error)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_samples_that_are_not_finite_are_refused(tmp_path: Path, bad: float) -> None:
    waveform = noise()
    waveform[7] = bad
    soundfile.write(tmp_path / "clip.wav", waveform, 16000, subtype="FLOAT")
    with pytest.raises(AudioError, match=r"clip\.wav: 1 samples are NaN or infinite"):
        decode(tmp_path / "clip.wav")


@pytest.mark.parametrize(
    ("limits", "field"), [({"max_duration_s": 0.9}, "duration_s"), ({"max_channels": 1}, "channels"), ({"max_duration_s": 1.0}, None)]
)
def test_a_violated_limit_is_named(tmp_path: Path, limits: dict[str, float], field: str | None) -> None:
    soundfile.write(tmp_path / "clip.wav", np.stack([noise(), noise()], axis=1), 16000)
    if field is None:
        assert decode(tmp_path / "clip.wav", **limits).size == 16000
        return
    with pytest.raises(AudioError) as caught:
        decode(tmp_path / "clip.wav", **limits)
    assert caught.value.field == field
    assert "nothing was decoded" in str(caught.value)


def test_a_sample_rate_outside_the_limits_is_refused(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "clip.wav", noise(), 500)
    with pytest.raises(AudioError, match="sample_rate_hz"):
        decode(tmp_path / "clip.wav")


def test_measurements_of_a_known_waveform(tmp_path: Path) -> None:
    square = np.where(np.arange(8000) % 100 < 50, 0.5, -0.5)
    square[:80] = 1.0
    soundfile.write(tmp_path / "clip.wav", square, 8000)
    facts = measure(tmp_path / "clip.wav")
    assert facts.error is None
    assert facts.duration_s == 1.0
    assert facts.sample_rate_hz == 8000
    assert facts.peak_dbfs == pytest.approx(0.0, abs=0.001)
    assert facts.rms_dbfs == pytest.approx(10 * np.log10(0.25 * 0.99 + 0.01), abs=0.01)
    assert facts.clipped_share == pytest.approx(0.01)
    write_flac(tmp_path / "silent.flac", np.zeros(16000), 16000)
    assert measure(tmp_path / "silent.flac").rms_dbfs == FLOOR_DBFS == to_dbfs(0.0)


@needs_recordings
@pytest.mark.recordings
def test_real_recordings_decode_and_only_mp3_headers_exceed_the_decoded_duration() -> None:
    rates = {"fsdd": (8000, "wav"), "esc10": (44100, "ogg"), "ravdess": (16000, "flac"), "philharmonia": (44100, "mp3")}
    for folder, (rate, suffix) in rates.items():
        for path in sorted((RECORDINGS / folder).rglob(f"*.{suffix}"))[:5]:
            facts = measure(path)
            assert facts.error is None
            assert facts.sample_rate_hz == rate
            excess = facts.header_duration_s - facts.duration_s
            assert 0.1 < excess < 0.5 if suffix == "mp3" else excess == 0.0
            assert decode(path).size == pytest.approx(facts.duration_s * 16000, abs=1)
