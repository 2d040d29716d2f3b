"""FLAC (RFC 9639): the last frame tells how many samples the file holds, and its CRC-16 whether it is complete."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from coat_core.corpus.containers.contents import Contents, Data, DefectError, Stream, is_padding, joined
from coat_core.corpus.containers.tags import skip_id3, tags_start

_MAX_FRAME_BYTES = 4 << 20
_STREAMS = (b"fLaC\x00\x00\x00\x22", b"fLaC\x80\x00\x00\x22")


def _table(width: int, polynomial: int) -> tuple[int, ...]:
    top, values = 1 << (width - 1), []
    for byte in range(256):
        value = byte << (width - 8)
        for _ in range(8):
            value = (value << 1) ^ (polynomial if value & top else 0)
        values.append(value & ((1 << width) - 1))
    return tuple(values)


_CRC8, _CRC16 = _table(8, 0x07), _table(16, 0x8005)


@dataclass(frozen=True)
class _StreamInfo:
    at: int
    block: int
    rate: int
    channels: int
    bits: int
    total: int
    md5: bytes
    audio: int
    """Offset of the first frame."""


def scan_flac(data: Data, stream: Stream) -> Contents:
    """Return what a FLAC file holds. A total of 0 samples means that the encoder did not know it.

    Raises:
        DefectError: the file is truncated, contains two streams, or holds another number of samples than it declares.
    """
    if (end := tags_start(data)) < len(data):
        data = data[:end]
    if not stream.frames:
        # libsndfile finds no FLAC stream, e.g. behind an ID3v2 tag with a footer.
        data = data[skip_id3(data, 0) :]
    info = _stream_info(data)
    for marker in _STREAMS:
        if (again := data.find(marker, info.audio)) > 0:
            raise joined(again)
    held = next((end for end in _last_frames(data, info)), None)
    if held is None:
        raise DefectError("the file is truncated: its last FLAC frame is incomplete, or is followed by other data")
    if info.total not in (0, held):
        raise DefectError(f"the header declares {info.total} samples, the frames hold {held}")
    rewritten = None if stream.frames else bytes(data)
    if info.total == 0:
        whole = bytearray(data[:])
        word = int.from_bytes(whole[info.at + 10 : info.at + 18], "big") >> 36 << 36 | held
        whole[info.at + 10 : info.at + 18] = word.to_bytes(8, "big")
        rewritten = bytes(whole)
    return Contents(held, rewritten=rewritten, md5=info.md5 if any(info.md5) else None, bits=info.bits)


def sample_md5(samples: NDArray[np.float32], bits: int) -> bytes | None:
    """Return the MD5 of samples `[N, channels]` as in STREAMINFO; None for a depth that is not a whole number of bytes."""
    if bits not in (8, 16, 24):
        return None
    integers = np.rint(samples.astype(np.float64) * 2.0 ** (bits - 1)).astype("<i4")
    return hashlib.md5(integers.view(np.uint8).reshape(-1, 4)[:, : bits // 8].tobytes(), usedforsecurity=False).digest()


def _stream_info(data: Data) -> _StreamInfo:
    at = skip_id3(data, 0) + 4
    found = None
    while at + 4 <= len(data):
        kind, length = data[at], int.from_bytes(data[at + 1 : at + 4], "big")
        if kind & 0x7F == 0 and found is None:
            found = at + 4
        at += 4 + length
        if kind & 0x80:
            break
    else:
        raise DefectError("the file is truncated: its FLAC metadata is incomplete")
    if found is None or at > len(data):
        raise DefectError("the file is truncated: its FLAC metadata is incomplete")
    word = int.from_bytes(data[found + 10 : found + 18], "big")
    return _StreamInfo(
        at=found,
        block=int.from_bytes(data[found + 2 : found + 4], "big"),
        rate=word >> 44,
        channels=(word >> 41 & 7) + 1,
        bits=(word >> 36 & 31) + 1,
        total=word & ((1 << 36) - 1),
        md5=bytes(data[found + 18 : found + 34]),
        audio=at,
    )


def _last_frames(data: Data, info: _StreamInfo) -> Iterator[int]:
    """Yield the number of samples up to the end of the last frame, if that frame is complete."""
    position, lowest = len(data), max(info.audio, len(data) - _MAX_FRAME_BYTES)
    while (position := data.rfind(b"\xff", lowest, position)) >= 0:
        head = _frame_header(data, position, info)
        if head is not None and _ends_with_file(data, position):
            yield head
            return


def _ends_with_file(data: Data, start: int) -> bool:
    """Return whether a frame from `start` (CRC-16 included) ends at the end of the file, or before padding."""
    frame = data[start:]
    if _crc16(frame) == 0:
        return True
    kept = frame.rstrip(b"\0")
    if len(kept) == len(frame) or not is_padding(data, start + len(kept)):
        return False
    # A CRC may itself end in zeros.
    return any(_crc16(frame[: len(kept) + extra]) == 0 for extra in range(3))


def _crc16(frame: bytes) -> int:
    crc = 0
    for byte in frame:
        crc = (crc << 8 & 0xFFFF) ^ _CRC16[crc >> 8 ^ byte]
    return crc


def _frame_header(data: Data, at: int, info: _StreamInfo) -> int | None:
    """Return the number of samples up to the end of the frame whose header is at `at`; None if no header is there."""
    head = data[at : at + 16]
    if len(head) < 6 or head[1] not in (0xF8, 0xF9) or head[3] & 1:
        return None
    size, rate, channels = head[2] >> 4, head[2] & 15, head[3] >> 4
    if size == 0 or rate == 15 or channels > 10 or (channels + 1 if channels < 8 else 2) != info.channels:
        return None
    number, used = _coded_number(head[4:])
    if number is None:
        return None
    end = 4 + used
    if size in (6, 7):
        block = int.from_bytes(head[end : end + size - 5], "big") + 1
        end += size - 5
    else:
        block = 192 if size == 1 else 576 << (size - 2) if size < 6 else 256 << (size - 8)
    end += {12: 1, 13: 2, 14: 2}.get(rate, 0)
    crc = 0
    for byte in head[: end + 1]:
        crc = _CRC8[crc ^ byte]
    if crc or end >= len(head):
        return None
    return (number if head[1] & 1 else number * info.block) + block


def _coded_number(head: bytes) -> tuple[int | None, int]:
    """Decode a number of one to seven bytes in the form of UTF-8."""
    first = head[0]
    if first < 0x80:
        return first, 1
    count = 8 - (first ^ 0xFF).bit_length()
    if count < 2 or count > 7 or len(head) < count:
        return None, 0
    value = first & ((1 << (7 - count)) - 1) if count < 7 else 0
    for byte in head[1:count]:
        if byte >> 6 != 2:
            return None, 0
        value = value << 6 | byte & 63
    return value, count
