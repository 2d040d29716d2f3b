"""Ogg (RFC 3533) with one Vorbis or Opus stream (RFC 7845): every page is checked by its CRC, number and stream."""

from __future__ import annotations

import zlib

from coat_core.corpus.containers.contents import Contents, Data, DefectError, Stream, is_padding, joined

_PAGE_HEADER_BYTES = 27
_FIRST, _LAST = 2, 4
_OPUS_RATE_HZ = 48_000
_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def scan_ogg(data: Data, stream: Stream) -> Contents:
    """Return what an Ogg file holds: the granule position of the last page, less the samples before the first (Opus: pre-skip).

    Raises:
        DefectError: a page is missing, damaged or incomplete, the last page has no end-of-stream flag, or there are two streams.
    """
    offset, number, serial, granule, flags = 0, 0, b"", 0, 0
    while not (number and is_padding(data, offset)):
        head = data[offset : offset + _PAGE_HEADER_BYTES]
        if head[:4] != b"OggS" or len(head) < _PAGE_HEADER_BYTES:
            raise DefectError(f"the file is truncated or damaged: there is no Ogg page at byte {offset}")
        lacing = data[offset + _PAGE_HEADER_BYTES : offset + _PAGE_HEADER_BYTES + head[26]]
        end = offset + _PAGE_HEADER_BYTES + head[26] + sum(lacing)
        if len(lacing) < head[26] or end > len(data):
            raise DefectError(f"the file is truncated: the Ogg page at byte {offset} is incomplete")
        if number and (head[5] & _FIRST or head[14:18] != serial or flags & _LAST):
            raise joined(offset)
        page = data[offset:end]
        if ogg_crc(page[:22] + bytes(4) + page[26:]) != int.from_bytes(head[22:26], "little"):
            raise DefectError(f"the Ogg page at byte {offset} is damaged: its checksum is wrong")
        if int.from_bytes(head[18:22], "little") != number:
            raise DefectError(f"the Ogg page {number} is missing")
        position = int.from_bytes(head[6:14], "little", signed=True)
        granule = position if position >= 0 else granule
        serial, flags, offset, number = head[14:18], head[5], end, number + 1
    if not flags & _LAST:
        raise DefectError("the file is truncated: its last Ogg page has no end-of-stream flag")
    return Contents(_frames(data, granule, stream))


def ogg_crc(page: bytes) -> int:
    """Return the CRC-32 of a page (polynomial 0x04C11DB7, not reflected). `zlib` has the reflected one, so bits are reversed."""
    reflected = zlib.crc32(page.translate(_REVERSED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int(f"{reflected:032b}"[::-1], 2)


def _frames(data: Data, granule: int, stream: Stream) -> int:
    """Return the frames at the rate that the stream decodes to."""
    start = _PAGE_HEADER_BYTES + data[26]
    if data[start : start + 8] != b"OpusHead":
        # The samples before the first granule position of a stream cut from another one are in the header's count.
        return stream.frames
    skip = int.from_bytes(data[start + 10 : start + 12], "little")
    return (granule - skip) * stream.sample_rate_hz // _OPUS_RATE_HZ
