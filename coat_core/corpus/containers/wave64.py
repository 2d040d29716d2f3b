"""W64 (Sony Wave64): chunks with a GUID as name, a 64-bit size that includes the 24 bytes of the chunk header, aligned to 8 bytes."""

from __future__ import annotations

from dataclasses import replace

from coat_core.corpus.containers.coding import frames_in
from coat_core.corpus.containers.contents import Contents, Data, DefectError, Stream, check_available, is_padding, joined, trailing

RIFF_GUID = bytes.fromhex("726966662e91cf11a5d628db04c10000")
_TAIL = bytes.fromhex("f3acd3118cd100c04f8edb8a")
_DATA = b"data" + _TAIL
_FMT = b"fmt " + _TAIL
_HEADER_BYTES = 24
_FILE_HEADER_BYTES = 40
_GSM_BLOCK = (65, 320)


def scan_wave64(data: Data, stream: Stream) -> Contents:
    """Return what a W64 file holds.

    Raises:
        DefectError: the file is truncated, contains two streams, or contains bytes that no chunk declares.
    """
    offset, block = _FILE_HEADER_BYTES, None
    while offset + _HEADER_BYTES <= len(data):
        name, size = bytes(data[offset : offset + 16]), _size(data, offset)
        start = offset + _HEADER_BYTES
        if name == _DATA:
            available = len(data) - start
            if (size in (0, _HEADER_BYTES) and available > 0) or size >= (1 << 63) - 1:
                frames = frames_in(stream, available, block)
                whole = bytearray(data[:])
                whole[offset + 16 : start] = (available + _HEADER_BYTES).to_bytes(8, "little")
                whole[16:24] = len(data).to_bytes(8, "little")
                return replace(frames, rewritten=bytes(whole))
            check_available(size - _HEADER_BYTES, available)
            _check_tail(data, offset + size)
            return frames_in(stream, max(0, size - _HEADER_BYTES), block)
        if name == _FMT:
            block = _block(data, start)
        if size < _HEADER_BYTES:
            break
        offset += size + -size % 8
    raise DefectError("the file is truncated: it contains no data chunk")


def _block(data: Data, start: int) -> tuple[int, int] | None:
    tag = int.from_bytes(data[start : start + 2], "little")
    if tag == 0x31:
        return _GSM_BLOCK
    if tag in (0x02, 0x11):
        return int.from_bytes(data[start + 12 : start + 14], "little"), int.from_bytes(data[start + 18 : start + 20], "little")
    return None


def _check_tail(data: Data, end: int) -> None:
    offset = end + -end % 8
    if offset > end and any(data[end : min(offset, len(data))]):
        raise trailing(data, end)
    while not is_padding(data, offset):
        name, size = bytes(data[offset : offset + 16]), _size(data, offset)
        if name in (_DATA, RIFF_GUID):
            raise joined(offset)
        if not name.endswith(_TAIL) or size < _HEADER_BYTES or offset + size > len(data):
            raise trailing(data, offset)
        offset += size + -size % 8


def _size(data: Data, offset: int) -> int:
    return int.from_bytes(data[offset + 16 : offset + 24], "little")
