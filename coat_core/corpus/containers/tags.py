"""Tags around audio streams: ID3v2 in front; ID3v1 (with TAG+), APE (with or without a header) and Lyrics3 behind."""

from __future__ import annotations

from coat_core.corpus.containers.contents import Data

_ID3V1_BYTES, _TAG_PLUS_BYTES = 128, 227
_APE_BYTES = 32
_APE_MAX_BYTES = 1 << 24
_LYRICS_MAX_BYTES = 5120


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


def tags_start(data: Data) -> int:
    """Return where the tags at the end of a file begin; the length of the file if there are none.

    APE and Lyrics3 tags are read from their ends: an APE tag of version 1 has no header, so its begin cannot be found from the front.
    """
    end, begin = len(data), -1
    while begin != end:
        end = begin if begin >= 0 else end
        begin = _tag_start(data, end)
    return end


def _tag_start(data: Data, end: int) -> int:
    """Return where the tag that ends at `end` begins, or `end` if there is none."""
    if end >= _ID3V1_BYTES and data[end - _ID3V1_BYTES : end - _ID3V1_BYTES + 3] == b"TAG":
        begin = end - _ID3V1_BYTES
        return begin - _TAG_PLUS_BYTES if data[max(0, begin - _TAG_PLUS_BYTES) : begin][:4] == b"TAG+" else begin
    if data[max(0, end - _APE_BYTES) : end][:8] == b"APETAGEX":
        return _ape_start(data, end)
    if data[max(0, end - 9) : end] == b"LYRICS200":
        size = bytes(data[end - 15 : end - 9])
        begin = end - 15 - int(size) if size.isdigit() else -1
        return begin if begin >= 0 and data[begin : begin + 11] == b"LYRICSBEGIN" else end
    if data[max(0, end - 9) : end] == b"LYRICSEND":
        begin = data.rfind(b"LYRICSBEGIN", max(0, end - _LYRICS_MAX_BYTES), end)
        return begin if begin >= 0 else end
    return end


def _ape_start(data: Data, end: int) -> int:
    """Return where the APE tag with the footer before `end` begins, or `end` if its items do not fill it: samples are no items."""
    size, count, flags = (int.from_bytes(data[end - at : end - at + 4], "little") for at in (20, 16, 12))
    at = begin = end - size
    if not _APE_BYTES <= size <= min(end, _APE_MAX_BYTES):
        return end
    for _ in range(count):
        key_end = data.find(b"\0", at + 8, min(at + 8 + 256, end - _APE_BYTES))
        if key_end < 0:
            return end
        at = key_end + 1 + int.from_bytes(data[at : at + 4], "little")
    if at != end - _APE_BYTES:
        return end
    return begin - _APE_BYTES if flags >> 31 and data[max(0, begin - _APE_BYTES) : begin][:8] == b"APETAGEX" else begin
