"""MP3 and FLAC files with the tags that players and taggers write: all samples are read, and a tag is never read as samples."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

from coat_core.corpus.audio import decode, measure, read_header
from tests.testing.audio_files import encode, mp3, noise, without_info

ID3V1 = b"TAG" + b"title".ljust(125, b"\0")
LYRICS = b"LYRICSBEGININD0000200LYR00005hello"


def id3(size: int = 200, flags: int = 0) -> bytes:
    """Return an ID3v2.4 tag; flag 0x10 adds the footer."""
    lengths = bytes([size >> 21 & 127, size >> 14 & 127, size >> 7 & 127, size & 127])
    return b"ID3\4\0" + bytes([flags]) + lengths + bytes(size) + (b"3DI\4\0" + bytes([flags]) + lengths if flags & 0x10 else b"")


def ape(*, header: bool, version: int = 2000) -> bytes:
    """Return an APE tag of one item; version 1 has no header."""
    items = struct.pack("<II", 5, 0) + b"Title\0hello"
    size, flag = len(items) + 32, 0x80000000 if header else 0
    block = b"APETAGEX" + struct.pack("<III", version, size, 1)
    return (block + struct.pack("<I", flag | 0x20000000) + bytes(8) if header else b"") + items + block + struct.pack("<I", flag) + bytes(8)


TAGS = {
    "ID3v2": (id3(), b""),
    "two ID3v2": (id3(), b"", id3(50)),
    "ID3v2 with a footer": (id3(10, 0x10), b""),
    "ID3v2 and zeros": (id3() + bytes(500), bytes(2000)),
    "ID3v1": (b"", ID3V1),
    "extended ID3v1": (b"", b"TAG+" + bytes(223) + ID3V1),
    "APE": (b"", ape(header=True)),
    "APE without a header": (b"", ape(header=False)),
    "APE version 1": (b"", ape(header=False, version=1000)),
    "ID3v2, APE and ID3v1": (id3(), ape(header=True) + ID3V1),
    "APE without a header and ID3v1": (b"", ape(header=False) + ID3V1),
    "Lyrics3 version 2": (b"", LYRICS + b"%06d" % len(LYRICS) + b"LYRICS200" + ID3V1),
    "Lyrics3 version 1": (b"", b"LYRICSBEGIN some words LYRICSEND" + ID3V1),
}


def write(folder: Path, data: bytes) -> Path:
    (folder / "clip.bin").write_bytes(data)
    return folder / "clip.bin"


@pytest.mark.parametrize("bare", [False, True], ids=["with an Info header", "without one"])
@pytest.mark.parametrize("kind", TAGS)
def test_a_tagged_mp3_has_the_samples_of_the_file_without_tags(tmp_path: Path, kind: str, bare: bool) -> None:
    audio = without_info(mp3(1.0)) if bare else mp3(1.0)
    expected = decode(write(tmp_path, audio))
    path = write(tmp_path, b"".join(TAGS[kind][0::2]) + audio + TAGS[kind][1])
    assert measure(path).error is None
    np.testing.assert_array_equal(decode(path), expected)
    assert read_header(path).duration_s == pytest.approx(expected.size / 16000, abs=0.04)


@pytest.mark.parametrize("kind", [kind for kind in TAGS if "zeros" not in kind])
def test_a_tagged_flac_has_the_samples_of_the_file_without_tags(tmp_path: Path, kind: str) -> None:
    audio = encode(noise(), "FLAC", "PCM_16")
    expected = decode(write(tmp_path, audio))
    path = write(tmp_path, b"".join(TAGS[kind][0::2]) + audio + TAGS[kind][1])
    np.testing.assert_array_equal(decode(path), expected)


@pytest.mark.parametrize("form", ["MP3", "FLAC"])
@pytest.mark.parametrize("size", [0, 31, 33, 4000, 0xFFFFFFFF])
def test_an_ape_footer_whose_items_do_not_fill_the_tag_removes_no_samples(tmp_path: Path, size: int, form: str) -> None:
    audio = mp3(1.0) if form == "MP3" else encode(noise(), "FLAC", "PCM_16")
    whole = decode(write(tmp_path, audio)).size
    facts = measure(write(tmp_path, audio + b"APETAGEX" + struct.pack("<IIII", 2000, size, 1, 0) + bytes(8)))
    assert facts.error is not None or decode(tmp_path / "clip.bin").size == whole
