"""The length of a clip is what the bytes of its file hold, whatever its header says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from coat_core.corpus.audio import decode, measure, read_header
from coat_core.errors import AudioError
from tests.testing.audio_files import (
    encode,
    mp3,
    mp3_frames,
    noise,
    with_data_size,
    with_flac_total,
    with_info_count,
    without_info,
)

DECODER_DELAY_S = 529 / 44100
LIST = b"LIST\x04\x00\x00\x00abcd"


def write(folder: Path, data: bytes, name: str = "clip.bin") -> Path:
    (folder / name).write_bytes(data)
    return folder / name


@pytest.mark.parametrize("loud", ["start", "end", "all"])
def test_a_variable_bit_rate_mp3_without_a_header_lasts_as_long_as_its_frames(tmp_path: Path, loud: str) -> None:
    whole = mp3(12.0, loud=loud)
    frames = len(mp3_frames(whole)) - 1
    facts = measure(write(tmp_path, without_info(whole)))
    assert facts.error is None
    assert facts.duration_s == pytest.approx(frames * 1152 / 44100, abs=DECODER_DELAY_S + 1e-9)
    assert facts.header_duration_s == pytest.approx(facts.duration_s, abs=0.5)
    assert decode(tmp_path / "clip.bin").size == pytest.approx(facts.duration_s * 16000, abs=1)


def test_samples_of_an_mp3_without_a_header_are_those_of_the_file_with_it(tmp_path: Path) -> None:
    whole = mp3(3.0, loud="start")
    expected = decode(write(tmp_path, whole, "whole.mp3"))
    found = decode(write(tmp_path, without_info(whole), "bare.mp3"))
    # Without the header nothing tells the encoder's delay: the samples are later.
    scores = [float(np.dot(found[shift : shift + 16000], expected[:16000])) for shift in range(1500)]
    shift = int(np.argmax(scores))
    assert np.corrcoef(found[shift : shift + 40000], expected[:40000])[0, 1] > 0.98


@pytest.mark.parametrize("count", [1, 100, -1])
def test_a_wrong_number_of_frames_in_an_mp3_header_is_corrected_or_refused(tmp_path: Path, count: int) -> None:
    whole = mp3(4.0)
    frames = len(mp3_frames(whole)) - 1
    if count > 0:
        assert measure(write(tmp_path, with_info_count(whole, count))).duration_s == 4.0
    else:
        message = f"declares {frames + 50} frames, the file contains {frames}"
        assert message in str(measure(write(tmp_path, with_info_count(whole, frames + 50))).error)


def test_tags_around_an_mp3_are_not_audio(tmp_path: Path) -> None:
    tag = b"ID3\x03\x00\x00\x00\x00\x10\x00" + bytes(2048)
    assert measure(write(tmp_path, tag + mp3(2.0) + b"TAG" + bytes(125))).duration_s == 2.0
    facts = measure(write(tmp_path, tag + without_info(mp3(2.0, mode="CONSTANT")) + b"TAG" + bytes(125)))
    assert facts.duration_s == pytest.approx(2.0, abs=0.1)


@pytest.mark.parametrize(("bits", "channels"), [(16, 1), (24, 1), (16, 2), (24, 2)])
def test_a_flac_of_unknown_length_is_decoded_whole(tmp_path: Path, bits: int, channels: int) -> None:
    data = encode(noise(1.3, channels=channels), "FLAC", f"PCM_{bits}")
    expected = measure(write(tmp_path, data, "whole.flac"))
    facts = measure(write(tmp_path, with_flac_total(data, 0)))
    assert facts.error is None
    assert (facts.duration_s, facts.header_duration_s, facts.rms_dbfs) == (1.3, 1.3, expected.rms_dbfs)
    with pytest.raises(AudioError, match="truncated"):
        decode(write(tmp_path, with_flac_total(data, 0)[: len(data) * 9 // 10]))


@pytest.mark.parametrize("total", [1, 8000, 16001, 2**36 - 1])
def test_a_flac_that_declares_another_length_is_refused(tmp_path: Path, total: int) -> None:
    path = write(tmp_path, with_flac_total(encode(noise(), "FLAC", "PCM_16"), total))
    with pytest.raises(AudioError, match=f"declares {total} samples, the frames hold 16000"):
        decode(path)


def test_a_flac_whose_samples_differ_from_its_md5_is_refused(tmp_path: Path) -> None:
    data = bytearray(encode(noise(), "FLAC", "PCM_16"))
    data[26 + 3] ^= 1
    with pytest.raises(AudioError, match="MD5"):
        decode(write(tmp_path, bytes(data)))


@pytest.mark.parametrize("size", [0, 0x7FFFF000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0xFFFFFFD3], ids=hex)
@pytest.mark.parametrize("tail", [b"", LIST], ids=["end", "chunk"])
@pytest.mark.parametrize("subtype", ["PCM_16", "FLOAT"])
def test_a_wav_that_was_streamed_is_read_to_its_end(tmp_path: Path, size: int, tail: bytes, subtype: str) -> None:
    samples = noise().astype(np.float32)
    path = write(tmp_path, with_data_size(encode(samples, "WAV", subtype), size) + tail)
    assert measure(path).duration_s == 1.0
    assert np.abs(decode(path) - samples).max() < 1e-4


@pytest.mark.parametrize("riff", [0, 1, 0x7FFFFFFF, 0xFFFFFFFF], ids=hex)
def test_the_size_of_the_riff_chunk_is_not_needed(tmp_path: Path, riff: int) -> None:
    data = encode(noise(), "WAV")
    assert measure(write(tmp_path, data[:4] + riff.to_bytes(4, "little") + data[8:])).duration_s == 1.0


STREAMED = {
    "au": ("AU", {"after": b".snd", "skip": 4, "order": "big", "size": 0xFFFFFFFF}),
    "au zero": ("AU", {"after": b".snd", "skip": 4, "order": "big", "size": 0}),
    "rf64": ("RF64", {"after": b"ds64", "skip": 12, "width": 8, "size": 2**64 - 1}),
    "rf64 zero": ("RF64", {"after": b"ds64", "skip": 12, "width": 8, "size": 0}),
    "w64": ("W64", {"after": bytes.fromhex("64617461f3acd3118cd100c04f8edb8a"), "width": 8, "size": 24}),
    "caf": ("CAF", {"width": 8, "order": "big", "size": 2**64 - 1}),
}


@pytest.mark.parametrize("kind", STREAMED)
def test_other_formats_of_unknown_length_are_read_to_their_end(tmp_path: Path, kind: str) -> None:
    form, field = STREAMED[kind]
    samples = noise()
    path = write(tmp_path, with_data_size(encode(samples, form, "PCM_16"), **field))
    assert read_header(path).duration_s == 1.0
    assert np.abs(decode(path) - samples).max() < 1e-4


def test_a_sphere_file_that_declares_no_length_is_refused(tmp_path: Path) -> None:
    data = encode(noise(), "NIST", "PCM_16").replace(b"sample_count", b"sample_xount")
    assert "sample_count" in str(measure(write(tmp_path, data)).error)


@pytest.mark.parametrize("padded", [True, False])
def test_an_odd_chunk_of_samples_may_be_padded(tmp_path: Path, padded: bool) -> None:
    data = encode(noise()[:1001], "WAV", "PCM_U8")
    start = data.index(b"data") + 8
    path = write(tmp_path, data[: start + 1001] + (b"\x00" if padded else b"") + LIST)
    assert measure(path).duration_s == 1001 / 16000


@pytest.mark.parametrize("form", ["WAV", "AIFF", "AU", "CAF", "W64", "RF64"])
def test_a_header_that_declares_less_than_the_file_holds_is_refused(tmp_path: Path, form: str) -> None:
    short, whole = encode(noise(0.3), form, "PCM_16"), encode(noise(1.0), form, "PCM_16")
    path = write(tmp_path, short + whole[-len(whole) // 2 :])
    assert "after the declared samples" in str(measure(path).error)


def test_an_mp3_in_which_the_format_changes_is_refused(tmp_path: Path) -> None:
    other = encode(noise(1.0, 48000), "MP3", rate=48000)
    assert "another format" in str(measure(write(tmp_path, without_info(mp3(1.0)) + other)).error)
    assert soundfile.info(str(write(tmp_path, other))).samplerate == 48000
