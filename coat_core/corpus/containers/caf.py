"""CAF (Apple Core Audio Format): chunks with 64-bit sizes; ALAC has a packet table."""

from __future__ import annotations

from dataclasses import replace

from coat_core.corpus.containers.coding import frames_in
from coat_core.corpus.containers.contents import Contents, Data, DefectError, Stream, check_available, is_name, is_padding, joined, trailing

_METADATA = (
    b"chan", b"edct", b"free", b"info", b"inst", b"kuki", b"mark", b"midi", b"ovvw", b"pakt", b"peak", b"regn", b"strg", b"umid", b"uuid",
)  # fmt: skip
"""Chunks that may be cut without loss of samples."""
_EDIT_COUNT_BYTES = 4
_CHUNK_HEADER_BYTES = 12
_PACKET_TABLE_HEADER_BYTES = 24


def scan_caf(data: Data, stream: Stream) -> Contents:
    """Return what a CAF file holds. The data chunk may declare -1 bytes if it is the last one.

    Raises:
        DefectError: the file is truncated, contains two streams, or contains bytes that no chunk declares.
    """
    chunks: dict[bytes, tuple[int, int]] = {}
    offset = 8
    while not is_padding(data, offset):
        name, length = bytes(data[offset : offset + 4]), int.from_bytes(data[offset + 4 : offset + 12], "big", signed=True)
        start = offset + _CHUNK_HEADER_BYTES
        if name == b"caff" or (name == b"data" and name in chunks):
            raise joined(offset)
        if not is_name(name) or start > len(data):
            raise trailing(data, offset)
        if name == b"data":
            if length in (-1, 0):
                return _to_the_end(data, stream, offset)
            check_available(length, len(data) - start)
        elif length < 0 or start + length > len(data):
            if b"data" not in chunks:
                break
            if name not in _METADATA:
                raise trailing(data, offset)
            length = len(data) - start
        chunks[name] = start, length
        offset = start + length
    if b"data" not in chunks:
        raise DefectError("the file is truncated: it contains no data chunk")
    size = chunks[b"data"][1] - _EDIT_COUNT_BYTES
    if stream.subtype.startswith("ALAC"):
        return _alac(data, size, chunks)
    return frames_in(stream, size)


def _to_the_end(data: Data, stream: Stream, offset: int) -> Contents:
    """Return the contents of a data chunk of unknown length: the samples end with the file."""
    length = len(data) - offset - _CHUNK_HEADER_BYTES
    contents = frames_in(stream, max(0, length - _EDIT_COUNT_BYTES))
    whole = bytearray(data[:])
    whole[offset + 4 : offset + _CHUNK_HEADER_BYTES] = length.to_bytes(8, "big")
    return replace(contents, rewritten=bytes(whole))


def _alac(data: Data, size: int, chunks: dict[bytes, tuple[int, int]]) -> Contents:
    """Return the frames of ALAC packets. The table contains the size of each packet, seven bits a byte."""
    if b"pakt" not in chunks or b"desc" not in chunks:
        raise DefectError("the file is truncated: it contains no packet table")
    start, length = chunks[b"pakt"]
    packets, valid = (int.from_bytes(data[at : at + 8], "big", signed=True) for at in (start, start + 8))
    priming, rest = (int.from_bytes(data[at : at + 4], "big", signed=True) for at in (start + 16, start + 20))
    total = value = count = 0
    for byte in data[start + _PACKET_TABLE_HEADER_BYTES : start + length]:
        if count == packets:
            break
        value = value << 7 | byte & 0x7F
        if not byte & 0x80:
            total, value, count = total + value, 0, count + 1
    description = chunks[b"desc"][0]
    frames_per_packet = int.from_bytes(data[description + 20 : description + 24], "big")
    if count != packets or total != size or valid + priming + rest != packets * frames_per_packet:
        raise DefectError(f"the packet table declares {total} bytes and {valid} frames, the file contains {size} bytes")
    return Contents(valid)
