"""Small audio files of every format that libsndfile writes, and their mutations."""

from __future__ import annotations

import io
import struct
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import soundfile
from numpy.random import Generator

from coat_core.corpus.containers.ogg import ogg_crc

_RATE_HZ = 16000
_FRAMES = 6000
_TRIM = 8190 + 529
"""Most samples that an Info header can declare as delay and padding, and the delay of the decoder."""
_EXTREMES = (0, 1, 0x7FFF, 0x7FFFF000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0xFFFFFFF0)


@dataclass(frozen=True)
class Seed:
    """A whole file. `frames` are decoded from it."""

    format: str
    data: bytes
    frames: int
    coding: tuple[str, str, int]


@dataclass(frozen=True)
class Mutated:
    """A mutated file. `least`: the frames that its bytes hold at least; None: not known."""

    format: str
    mutation: str
    data: bytes
    least: int | None
    coding: tuple[str, str, int]


@cache
def seeds() -> tuple[Seed, ...]:
    """Return a file of each format and coding that libsndfile writes, in mono and stereo, and MP3 files without Info header."""
    found = []
    for name in sorted(soundfile.available_formats()):
        for coding in sorted(soundfile.available_subtypes(name)):
            for channels in (1, 2):
                data = _encode(name, coding, channels)
                if data is None:
                    continue
                found.append(_seed(f"{name}/{coding}", data, name, coding, channels))
    for mode in ("CONSTANT", "VARIABLE"):
        data = _encode("MP3", "MPEG_LAYER_III", 1, bitrate_mode=mode, compression_level=0.5)
        assert data is not None
        frames = mpeg_frames(data)
        without = data[frames[1] :]
        found.append(Seed("MP3/without-info", without, 576 * (len(frames) - 1), ("MP3", "MPEG_LAYER_III", 1)))
    return tuple(found)


def _seed(label: str, data: bytes, name: str, coding: str, channels: int) -> Seed:
    try:
        whole = soundfile.SoundFile(io.BytesIO(data)) if name not in ("RAW", "MP3") else None
        frames, form = (whole.frames, whole.format) if whole is not None else (_FRAMES, name)
    except soundfile.SoundFileError:
        frames, form = _FRAMES, name
    return Seed(label, data, frames, (form, coding, channels))


def _encode(name: str, coding: str, channels: int, **options: object) -> bytes | None:
    rng = np.random.default_rng(channels)
    time = np.arange(_FRAMES) / _RATE_HZ
    samples = 0.2 * np.sin(2 * np.pi * 440 * time)[:, None] + rng.uniform(-0.1, 0.1, (_FRAMES, channels))
    # Loud, then quieter: the bit rate of the first frames is not the mean.
    samples[_FRAMES // 2 :] *= 0.05
    # In a folder of its own: SD2 has a second file beside the first.
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"clip.{name.lower()}")
        try:
            soundfile.write(str(path), samples, _RATE_HZ, format=name, subtype=coding, **options)
        except (soundfile.SoundFileError, ValueError, TypeError):
            return None
        data = path.read_bytes()
    return same_serial(data) if name == "OGG" else data or None


def pages(data: bytes) -> list[tuple[int, int]]:
    """Return start and end of each Ogg page."""
    found, offset = [], 0
    while data[offset : offset + 4] == b"OggS":
        end = offset + 27 + data[offset + 26] + sum(data[offset + 27 : offset + 27 + data[offset + 26]])
        found.append((offset, end))
        offset = end
    return found


def with_crc(page: bytes) -> bytes:
    """Return an Ogg page with its checksum."""
    crc = ogg_crc(page[:22] + bytes(4) + page[26:])
    return page[:22] + crc.to_bytes(4, "little") + page[26:]


def same_serial(data: bytes, serial: int = 1) -> bytes:
    """Return an Ogg file with a given stream number: libsndfile draws a random one."""
    parts = [data[start:end] for start, end in pages(data)]
    return b"".join(with_crc(page[:14] + serial.to_bytes(4, "little") + page[18:]) for page in parts)


def mpeg_frames(data: bytes) -> list[int]:
    """Return the offsets of the complete frames of an MPEG-2 layer III file at 16 kHz."""
    rates = (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)
    found, offset = [], 0
    while offset + 4 <= len(data) and data[offset] == 0xFF:
        size = 72 * rates[data[offset + 2] >> 4] * 1000 // _RATE_HZ + (data[offset + 2] >> 1 & 1)
        if offset + size > len(data):
            break
        found.append(offset)
        offset += size
    return found


def _length_fields(seed: Seed) -> list[tuple[int, str]]:
    """Return offset and `struct` format of each field that declares a length."""
    data, name = seed.data, seed.format.partition("/")[0]
    if name in ("WAV", "WAVEX", "RF64"):
        fields = [(data.index(b"data") + 4, "<I"), (4, "<I")]
        return fields + ([(data.index(b"ds64") + 16, "<Q"), (data.index(b"ds64") + 24, "<Q")] if name == "RF64" else [])
    if name == "AIFF":
        return [(4, ">I"), (data.index(b"COMM") + 10, ">I"), (data.index(b"SSND") + 4, ">I")]
    if name == "AU":
        return [(8, ">I")]
    if name == "W64":
        return [(data.index(b"data\xf3") + 16, "<Q"), (16, "<Q")]
    if name == "CAF":
        return [(data.index(b"data") + 4, ">Q")]
    if name == "FLAC":
        return [(22, ">I")]
    if name == "OGG":
        return [(pages(data)[-1][0] + 6, "<Q")]
    if name == "MP3" and b"Info" in data[:64] + data[:64].replace(b"Xing", b"Info"):
        return [(max(data.find(b"Xing"), data.find(b"Info")) + 8, ">I")]
    return []


def _whole(seed: Seed) -> int:
    """Return the frames that a file holds at least, whatever its header says."""
    return max(1, seed.frames - _TRIM) if seed.format.startswith("MP3") else seed.frames


def _length(files: Sequence[Seed], seed: Seed, rng: Generator) -> tuple[bytes, int | None]:
    """Change a field that declares a length. The samples are unchanged."""
    if seed.format.startswith("NIST"):
        at = seed.data.index(b"sample_count -i ") + 16
        digits = seed.data[at : seed.data.index(b"\n", at)]
        value = str(int(rng.integers(0, 10 ** len(digits)))).rjust(len(digits), "0")
        return seed.data[:at] + value.encode() + seed.data[at + len(digits) :], seed.frames
    fields = _length_fields(seed)
    if not fields:
        return _flip(files, seed, rng)
    at, form = fields[rng.integers(len(fields))]
    size = struct.calcsize(form)
    old = int.from_bytes(seed.data[at : at + size], "little" if form[0] == "<" else "big")
    new = [int(rng.integers(0, max(2, min(old, 1 << 40)))), old // 2, old + int(rng.integers(1, 5000)), (1 << (8 * size)) - 1]
    new += list(_EXTREMES)
    value = new[rng.integers(len(new))] & ((1 << (8 * size)) - 1)
    data = seed.data[:at] + struct.pack(form, value) + seed.data[at + size :]
    if seed.format.startswith("OGG"):
        start, end = pages(data)[-1]
        data = data[:start] + with_crc(data[start:end]) + data[end:]
        # The granule position itself tells where the last page ends: a smaller one is an end trim (RFC 7845, 4.4).
        return data, None
    return data, _whole(seed)


def _cut(files: Sequence[Seed], seed: Seed, rng: Generator) -> tuple[bytes, int | None]:
    """Remove the end."""
    data = seed.data[: int(rng.integers(1, len(seed.data)))]
    if seed.format.startswith("MP3"):
        # A cut between two frames leaves a whole, shorter file.
        info = seed.format != "MP3/without-info"
        complete = len(mpeg_frames(data)) - info
        return data, max(1, complete * 576 - (_TRIM if info else 529))
    return data, seed.frames


def _flip(files: Sequence[Seed], seed: Seed, rng: Generator) -> tuple[bytes, int | None]:
    """Change one to eight bytes, half of the time in the header."""
    data = bytearray(seed.data)
    limit = len(data) if rng.random() < 0.5 else min(len(data), 128)
    for at in rng.integers(0, limit, rng.integers(1, 9)):
        data[at] ^= int(rng.integers(1, 256))
    return bytes(data), _whole(seed)


def _field(files: Sequence[Seed], seed: Seed, rng: Generator) -> tuple[bytes, int | None]:
    """Overwrite four bytes of the header by an extreme value."""
    at = int(rng.integers(0, min(len(seed.data), 160) - 4))
    value = _EXTREMES[rng.integers(len(_EXTREMES))]
    return seed.data[:at] + value.to_bytes(4, "little" if rng.random() < 0.5 else "big") + seed.data[at + 4 :], _whole(seed)


def _duplicate(files: Sequence[Seed], seed: Seed, rng: Generator) -> tuple[bytes, int | None]:
    """Repeat a part of the file."""
    start, end = sorted(int(at) for at in rng.integers(0, len(seed.data) + 1, 2))
    return seed.data[:end] + seed.data[start:end] + seed.data[end:], _whole(seed)


def _remove(files: Sequence[Seed], seed: Seed, rng: Generator) -> tuple[bytes, int | None]:
    """Remove a part of the file."""
    start, end = sorted(int(at) for at in rng.integers(0, len(seed.data) + 1, 2))
    return seed.data[:start] + seed.data[end:], None if seed.format.startswith("MP3") else seed.frames


def _join(files: Sequence[Seed], seed: Seed, rng: Generator) -> tuple[bytes, int | None]:
    """Append a second file of the same format."""
    others = [other for other in files if other.format.partition("/")[0] == seed.format.partition("/")[0]]
    other = others[rng.integers(len(others))]
    second = same_serial(other.data, int(rng.integers(1, 3))) if other.format.startswith("OGG") else other.data
    least = _whole(seed) + _whole(other)
    if seed.format == other.format == "MP3/without-info":
        least = seed.frames + other.frames - 529
    return seed.data + second, least


def _append(files: Sequence[Seed], seed: Seed, rng: Generator) -> tuple[bytes, int | None]:
    """Append random bytes, zeros or a tag."""
    tails = (rng.bytes(int(rng.integers(1, 3000))), bytes(int(rng.integers(1, 3000))), b"TAG" + rng.bytes(125))
    return seed.data + tails[rng.integers(3)], _whole(seed)


_CHANGES: dict[str, Callable[[Sequence[Seed], Seed, Generator], tuple[bytes, int | None]]] = {
    "cut": _cut,
    "flip": _flip,
    "field": _field,
    "length": _length,
    "duplicate": _duplicate,
    "remove": _remove,
    "join": _join,
    "append": _append,
}
MUTATIONS = tuple(_CHANGES)


def mutate(files: Sequence[Seed], seed: Seed, mutation: str, rng: Generator) -> Mutated:
    """Return a mutation of a file."""
    data, least = _CHANGES[mutation](files, seed, rng)
    return Mutated(seed.format.partition("/")[0], mutation, data, least, seed.coding)
