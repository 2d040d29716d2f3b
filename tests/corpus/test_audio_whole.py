"""A file that is cut, joined or damaged is refused; every format is either checked or refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarks.fuzz_audio import FAILURES, run, table
from benchmarks.fuzz_audio_files import pages, same_serial, with_crc
from coat_core.corpus.audio import decode, measure
from coat_core.corpus.containers.scan import FORMATS
from coat_core.errors import AudioError
from tests.testing.audio_files import encode, mp3, mp3_frames, noise, without_info

CODINGS = {
    "wav": ("WAV", "PCM_16"), "wav float": ("WAV", "FLOAT"), "wav ima": ("WAV", "IMA_ADPCM"), "wavex": ("WAVEX", "PCM_24"),
    "rf64": ("RF64", "PCM_16"), "w64": ("W64", "PCM_16"), "w64 gsm": ("W64", "GSM610"), "aiff": ("AIFF", "PCM_16"),
    "aifc float": ("AIFF", "FLOAT"), "aifc ima": ("AIFF", "IMA_ADPCM"), "au": ("AU", "PCM_16"), "au ulaw": ("AU", "ULAW"),
    "caf": ("CAF", "PCM_16"), "caf alac": ("CAF", "ALAC_16"), "sph": ("NIST", "PCM_16"), "sph ulaw": ("NIST", "ULAW"),
    "flac": ("FLAC", "PCM_16"), "vorbis": ("OGG", "VORBIS"), "opus": ("OGG", "OPUS"), "mp3": ("MP3", "MPEG_LAYER_III"),
}  # fmt: skip
REFUSED = sorted(set(soundfile.available_formats()) - set(FORMATS))


def clip(kind: str, seconds: float = 1.0, seed: int = 0) -> bytes:
    return encode(noise(seconds, seed=seed), *CODINGS[kind])


def write(folder: Path, data: bytes) -> Path:
    (folder / "clip.bin").write_bytes(data)
    return folder / "clip.bin"


@pytest.mark.parametrize("kind", CODINGS)
def test_a_whole_file_is_accepted(tmp_path: Path, kind: str) -> None:
    facts = measure(write(tmp_path, clip(kind)))
    assert facts.error is None
    assert facts.duration_s == pytest.approx(1.0, abs=0.02)


@pytest.mark.parametrize("kind", CODINGS)
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.99])
def test_a_file_that_is_cut_is_refused(tmp_path: Path, kind: str, share: float) -> None:
    data = clip(kind)
    path = write(tmp_path, data[: int(len(data) * share)])
    assert "clip.bin" in str(measure(path).error)
    with pytest.raises(AudioError, match=r"clip\.bin"):
        decode(path)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(kind=st.sampled_from(sorted(set(CODINGS) - {"mp3"})), data=st.data())
def test_a_file_that_is_cut_anywhere_is_refused(tmp_path: Path, kind: str, data: st.DataObject) -> None:
    whole = clip(kind, 0.3)
    last = len(whole.rstrip(b"\0")) if kind in ("wav ima", "w64 gsm") else len(whole)
    assert measure(write(tmp_path, whole[: data.draw(st.integers(1, last - 8))])).error is not None


@pytest.mark.parametrize("kind", ["vorbis", "opus"])
def test_an_ogg_file_cut_between_two_pages_is_refused(tmp_path: Path, kind: str) -> None:
    data = clip(kind, 4.0)
    for _, end in pages(data)[2:-1]:
        assert "end-of-stream" in str(measure(write(tmp_path, data[:end])).error)


@pytest.mark.parametrize("kind", ["vorbis", "opus"])
def test_an_ogg_file_without_a_page_or_with_a_damaged_page_is_refused(tmp_path: Path, kind: str) -> None:
    data = clip(kind, 4.0)
    start, end = pages(data)[3]
    assert "missing" in str(measure(write(tmp_path, data[:start] + data[end:])).error)
    assert "checksum" in str(measure(write(tmp_path, data[: end - 9] + bytes([data[end - 9] ^ 1]) + data[end - 8 :])).error)


def test_a_cut_mp3_is_refused_or_as_long_as_its_frames(tmp_path: Path) -> None:
    whole = mp3(3.0)
    frames = mp3_frames(whole)
    assert "truncated" in str(measure(write(tmp_path, b"".join(frames[:60]))).error)
    assert "incomplete" in str(measure(write(tmp_path, without_info(whole)[:-10])).error)
    facts = measure(write(tmp_path, b"".join(frames[1:61])))
    assert facts.duration_s == pytest.approx(60 * 1152 / 44100, abs=0.0121)


@pytest.mark.parametrize("kind", CODINGS)
def test_two_joined_files_are_refused(tmp_path: Path, kind: str) -> None:
    first, second = clip(kind), clip(kind, 0.5, seed=1)
    for joined in (first + second, first + first):
        assert measure(write(tmp_path, joined)).error is not None


@pytest.mark.parametrize("between", [b"", b"TAG" + bytes(125), b"ID3\x03\x00\x00\x00\x00\x00\x14" + bytes(20), bytes(100)])
def test_joined_mp3_files_are_decoded_whole_or_refused(tmp_path: Path, between: bytes) -> None:
    assert "second audio stream" in str(measure(write(tmp_path, mp3(2.0) + between + mp3(2.0))).error)
    bare = without_info(mp3(2.0))
    facts = measure(write(tmp_path, bare + between + bare))
    if between:
        assert "second audio stream" in str(facts.error)
    else:
        assert facts.duration_s == pytest.approx(4.07, abs=0.1)


def test_chained_ogg_files_of_one_stream_number_are_refused(tmp_path: Path) -> None:
    data = same_serial(clip("vorbis", 2.0))
    assert "second audio stream" in str(measure(write(tmp_path, data + data)).error)


def test_an_ogg_file_of_another_codec_is_refused(tmp_path: Path) -> None:
    page = b"OggS\x00\x06" + bytes(8) + (1).to_bytes(4, "little") + bytes(8) + b"\x01\x0d" + b"\x7fFLAC\x01\x00\x00\x01fLaC"
    assert "clip.bin" in str(measure(write(tmp_path, with_crc(page))).error)


@pytest.mark.parametrize("form", REFUSED)
def test_a_format_that_does_not_tell_whether_it_is_complete_is_refused(tmp_path: Path, form: str) -> None:
    subtype = sorted(soundfile.available_subtypes(form))[0]
    error = str(measure(write(tmp_path, encode(noise(), form, subtype))).error)
    assert "clip.bin" in error
    assert "convert the file to WAV or FLAC" in error


@pytest.mark.parametrize(("form", "subtype"), [("WAV", "G721_32"), ("AU", "G723_24"), ("AIFF", "DWVW_16"), ("WAV", "NMS_ADPCM_16")])
def test_a_coding_whose_length_cannot_be_checked_is_refused(tmp_path: Path, form: str, subtype: str) -> None:
    assert f"the coding {subtype} is not supported" in str(measure(write(tmp_path, encode(noise(), form, subtype))).error)


@pytest.mark.parametrize("kind", ["wav", "aiff", "caf", "rf64", "flac"])
def test_zeros_after_the_samples_are_padding(tmp_path: Path, kind: str) -> None:
    data = clip(kind)
    expected = decode(write(tmp_path, data))
    assert np.array_equal(decode(write(tmp_path, data + bytes(64))), expected)


@pytest.mark.timeout(300)
def test_300_mutated_files_are_refused_or_accepted_whole() -> None:
    outcomes = run(300, seed=7, workers=1)
    assert len(outcomes) == 300
    assert [outcome for outcome in outcomes if outcome.result in FAILURES] == []
    assert set(table(outcomes, 7)["results"]) == {"accepted", "refused"}
