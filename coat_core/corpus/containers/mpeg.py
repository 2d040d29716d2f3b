"""MPEG audio (ISO 11172-3 and 13818-3, layers I to III): the number of samples is the number of frames, counted in the bytes.

A header of the first frame (Xing, Info, VBRI) may declare the number of frames; nothing guarantees it. Without one, decoders estimate
the length from the bit rate of the first frames, and stop there (libsndfile #1001, #876).
"""

from __future__ import annotations

from dataclasses import dataclass

from coat_core.corpus.containers.contents import Contents, Data, DefectError, Stream, joined
from coat_core.corpus.containers.tags import skip_id3, skip_tag, tags_start

_RATES_HZ = (44100, 48000, 32000)
_KBPS = {
    (1, 1): (0, 32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (1, 2): (0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (1, 3): (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (2, 1): (0, 32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (2, 2): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (2, 3): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_MONO = 3
_DECODER_DELAY = 529
"""Samples that a layer III decoder adds at the start."""
_ESTIMATE_TOLERANCE_S = 0.5
"""Largest error of an estimated length that is kept: the estimate counts tags as audio."""


@dataclass(frozen=True)
class _Frame:
    size: int
    samples: int
    version: int
    layer: int
    rate_hz: int
    mono: bool


@dataclass(frozen=True)
class _Info:
    """The Xing, Info or VBRI header of the first frame."""

    count_at: int
    count: int | None
    delay: int = 0
    padding: int = 0
    vbri: bool = False


def starts_mpeg(data: Data) -> bool:
    """Return whether MPEG frames begin after the tags and zeros at the start of a file."""
    return _first(data) is not None


def scan_mpeg(data: Data, stream: Stream) -> Contents:
    """Return what an MPEG file holds. If its length is not declared correctly, the contents have a file that declares it.

    Raises:
        DefectError: the file is truncated, contains two streams, or contains bytes that are not frames.
    """
    start = _first(data)
    if start is None:
        raise DefectError("the file contains no MPEG frames")
    first = _frame(data, start)
    assert first is not None
    info = _info(data, start, first)
    count, end = _count(data, start, first)
    count -= info is not None
    held = count * first.samples
    if info is not None and info.count is not None and count < info.count - 1:
        raise DefectError(f"the file is truncated: its first frame declares {info.count} frames, the file contains {count}")
    if count <= 0:
        raise DefectError("the file contains no MPEG frames")
    rewritten = None
    if info is None or info.vbri or info.count is None:
        estimate = stream.frames
        if info is not None or estimate < held or estimate - held > _ESTIMATE_TOLERANCE_S * first.rate_hz:
            frames = start + (first.size if info is not None else 0)
            rewritten = _info_frame(data, start, first, count) + data[frames:end]
    elif info.count != count:
        whole = bytearray(data[:])
        whole[info.count_at : info.count_at + 4] = count.to_bytes(4, "big")
        rewritten = bytes(whole)
    elif not stream.frames:
        # libsndfile does not find the first frame, e.g. behind zeros or an ID3v2 tag with a footer.
        rewritten = data[start:end]
    trimmed = min(held, info.delay + info.padding) if info is not None else 0
    # With an Info header, decoders drop the delay of the decoder itself, too.
    return Contents(held - trimmed, slack=_DECODER_DELAY if info is not None or rewritten is not None else 0, rewritten=rewritten)


def _first(data: Data) -> int | None:
    """Return the offset of the first frame; a second one, a tag or the end of the file must follow it."""
    offset = skip_id3(data, 0)
    zeros = data[offset : offset + 65536]
    offset += len(zeros) - len(zeros.lstrip(b"\0"))
    frame = _frame(data, offset)
    if frame is None:
        return None
    after = offset + frame.size
    following = _frame(data, after)
    same = following is not None and _alike(following, frame)
    return offset if same or after >= len(data) or skip_tag(data, after) > after else None


def _count(data: Data, start: int, first: _Frame) -> tuple[int, int]:
    """Return the number of frames and the offset after the last one."""
    offset, count, last = start, 0, start
    size = tags_start(data)
    while offset < size:
        frame = _frame(data, offset)
        if frame is not None and _alike(frame, first):
            if last != offset or (count and _info(data, offset, frame) is not None):
                raise joined(offset)
            if offset + frame.size > size:
                raise DefectError(f"the file is truncated: the MPEG frame at byte {offset} is incomplete")
            offset = last = offset + frame.size
            count += 1
            continue
        if frame is not None and skip_tag(data, offset) == offset and last == offset:
            raise DefectError(f"the MPEG frame at byte {offset} has another format than the first: files were joined, or it is damaged")
        after = skip_tag(data, offset)
        if after == offset:
            rest = data[offset : offset + 65536]
            after += len(rest) - len(rest.lstrip(b"\0"))
        if after == offset:
            if size - offset < 4:
                raise DefectError(f"the file is truncated: the MPEG frame at byte {offset} is incomplete")
            raise DefectError(f"the bytes at {offset} are not MPEG frames: the file is damaged, or other data were appended")
        offset = after
    return count, last


def _alike(frame: _Frame, first: _Frame) -> bool:
    return (frame.version, frame.layer, frame.rate_hz, frame.mono) == (first.version, first.layer, first.rate_hz, first.mono)


def _frame(data: Data, at: int) -> _Frame | None:
    """Parse the header of a frame; None if there is none at `at`."""
    head = data[at : at + 4]
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE0 != 0xE0:
        return None
    code, layer = head[1] >> 3 & 3, 4 - (head[1] >> 1 & 3)
    rate, speed = head[2] >> 2 & 3, head[2] >> 4
    if code == 1 or layer == 4 or rate == 3 or speed in (0, 15):
        return None
    version = 1 if code == 3 else 2
    rate_hz = _RATES_HZ[rate] // {3: 1, 2: 2, 0: 4}[code]
    bits, pad = _KBPS[version, layer][speed] * 1000, head[2] >> 1 & 1
    if layer == 1:
        size, samples = (12 * bits // rate_hz + pad) * 4, 384
    else:
        samples = 1152 if layer == 2 or version == 1 else 576
        size = samples // 8 * bits // rate_hz + pad
    return _Frame(size, samples, code, layer, rate_hz, head[3] >> 6 == _MONO)


def _side_bytes(frame: _Frame) -> int:
    return (17 if frame.mono else 32) if frame.version == 3 else (9 if frame.mono else 17)


def _info(data: Data, at: int, frame: _Frame) -> _Info | None:
    """Return the Xing, Info or VBRI header of a frame."""
    if frame.layer != 3:
        return None
    side = at + 4 + _side_bytes(frame)
    for start in (side, side + 2):
        # A CRC may stand between the frame's header and its side information.
        if data[start : start + 4] in (b"Xing", b"Info"):
            flags = int.from_bytes(data[start + 4 : start + 8], "big")
            if not flags & 1:
                return _Info(start + 8, None)
            count = int.from_bytes(data[start + 8 : start + 12], "big")
            tag = start + 12 + (4 if flags & 2 else 0) + (100 if flags & 4 else 0) + (4 if flags & 8 else 0)
            gap = data[tag + 21 : tag + 24]
            if not any(data[tag : tag + 4]) or tag + 24 > at + frame.size:
                return _Info(start + 8, count)
            return _Info(start + 8, count, gap[0] << 4 | gap[1] >> 4, (gap[1] & 15) << 8 | gap[2])
    if data[at + 36 : at + 40] == b"VBRI":
        return _Info(at + 50, None, vbri=True)
    return None


def _info_frame(data: Data, at: int, first: _Frame, count: int) -> bytes:
    """Return a silent frame with an Info header that declares `count` frames."""
    head = bytearray(data[at : at + 4])
    # Without CRC, and with the lowest bit rate whose frame has room for the header.
    head[1] |= 1
    size = 0
    for speed in range(1, 15):
        head[2] = speed << 4 | head[2] & 0x0D
        frame = _frame(bytes(head), 0)
        assert frame is not None
        size = frame.size
        if size >= 4 + _side_bytes(first) + 12 + 40:
            break
    body = bytes(_side_bytes(first)) + b"Info" + (1).to_bytes(4, "big") + count.to_bytes(4, "big")
    return (bytes(head) + body).ljust(size, b"\0")
