"""Tags around audio streams: ID3v2 in front; ID3v1, APE and Lyrics3 behind."""

from __future__ import annotations

from coat_core.corpus.containers.contents import Data

_ID3V1_BYTES = 128


def skip_id3(data: Data, offset: int) -> int:
    """Return the offset after the ID3v2 tags at `offset`."""
    while data[offset : offset + 3] == b"ID3" and len(data) >= offset + 10:
        size = 0
        for byte in data[offset + 6 : offset + 10]:
            size = size << 7 | byte & 0x7F
        footer = 10 if data[offset + 5] & 0x10 else 0
        offset += 10 + size + footer
    return offset


def skip_tag(data: Data, offset: int) -> int:
    """Return the offset after one tag at `offset`, or `offset` if there is none."""
    if data[offset : offset + 3] == b"TAG" and offset + _ID3V1_BYTES <= len(data):
        return offset + _ID3V1_BYTES
    if data[offset : offset + 8] == b"APETAGEX":
        size = int.from_bytes(data[offset + 12 : offset + 16], "little")
        is_header = data[offset + 23] & 0x20 if offset + 24 <= len(data) else 0
        return offset + (32 + size if is_header else 32)
    if data[offset : offset + 11] == b"LYRICSBEGIN":
        end = data.find(b"LYRICS200", offset)
        return end + 9 if end > 0 else offset
    return skip_id3(data, offset)
