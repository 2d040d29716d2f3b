"""WAV, WAVEX and RF64 (RIFF chunks; EBU Tech 3306 for RF64)."""

from __future__ import annotations

from dataclasses import dataclass, replace

from coat_core.corpus.containers.coding import frames_in
from coat_core.corpus.containers.contents import Contents, Data, DefectError, Stream, check_available, is_name, is_padding, joined, trailing

_FORMS = (b"RIFF", b"RIFX", b"RF64", b"BW64")
_METADATA = (
    b"LIST", b"list", b"id3 ", b"ID3 ", b"bext", b"fact", b"cue ", b"smpl", b"inst", b"iXML", b"axml", b"aXML", b"PEAK", b"JUNK", b"junk",
    b"_PMX", b"cart", b"plst", b"ltxt", b"note", b"labl", b"chna", b"umid", b"acid", b"DISP", b"afsp", b"LGWV", b"levl", b"PAD ", b"FLLR",
)  # fmt: skip
_UNKNOWN_32 = 0xFFFFFFFF
_PLACEHOLDER_SPAN = 0x2000
_GSM_BLOCK = (65, 320)
_IMA_TAG, _MS_TAG, _GSM_TAG = 0x11, 0x02, 0x31


@dataclass(frozen=True)
class _Head:
    """Position and declared size of the samples, and the block of a compressed coding."""

    start: int
    declared: int
    size_at: int
    size_bytes: int
    order: str
    block: tuple[int, int] | None


def scan_riff(data: Data, stream: Stream) -> Contents:
    """Return what a RIFF file holds.

    Writers that cannot seek leave a placeholder as data size: 0, 0xFFFFFFFF, or a value next to 2^31 (kaldi #1567). The samples then
    end at the end of the file, or before its last metadata chunk.

    Raises:
        DefectError: the file is truncated, contains two streams, or contains bytes that no chunk declares.
    """
    head = _head(data, stream)
    available = len(data) - head.start
    if _is_placeholder(head.declared, available) and not (head.declared == 0 and _tiles(data, head.start, head.order)):
        size = _end_of_samples(data, head.start, head.order) - head.start
        contents = frames_in(stream, size, head.block)
        return replace(contents, rewritten=_with_size(data, head, size))
    check_available(head.declared, available)
    _check_tail(data, head.start + head.declared, head.order)
    return frames_in(stream, head.declared, head.block)


def _is_placeholder(declared: int, available: int) -> bool:
    if declared == 0:
        return available > 0
    near = any(limit - _PLACEHOLDER_SPAN <= declared <= limit for limit in (1 << 31, 1 << 32, 1 << 63, 1 << 64))
    return near and declared > available


def _head(data: Data, stream: Stream) -> _Head:
    order = "big" if data[:4] == b"RIFX" else "little"
    wide: tuple[int, int] | None = None
    block: tuple[int, int] | None = None
    offset = 12
    while offset + 8 <= len(data):
        name, size = data[offset : offset + 4], _int(data, offset + 4, 4, order)
        start = offset + 8
        if name == b"data":
            if size == _UNKNOWN_32 and wide is not None:
                return _Head(start, wide[0], wide[1], 8, order, block)
            return _Head(start, size, offset + 4, 4, order, block)
        if name == b"ds64" and data[:4] in (b"RF64", b"BW64"):
            wide = _int(data, start + 8, 8, order), start + 8
        if name == b"fmt ":
            block = _block(data, start, size, order, stream.channels)
        offset = start + size + (size & 1)
    raise DefectError("the file is truncated: it contains no data chunk")


def _block(data: Data, start: int, size: int, order: str, channels: int) -> tuple[int, int] | None:
    """Return bytes and frames of a block of a compressed coding."""
    tag, align = _int(data, start, 2, order), _int(data, start + 12, 2, order)
    if tag == _GSM_TAG:
        return _GSM_BLOCK
    if tag in (_IMA_TAG, _MS_TAG) and size >= 20 and channels:
        # The extension of the fmt chunk begins with the frames per block.
        return align, _int(data, start + 18, 2, order)
    return None


def _with_size(data: Data, head: _Head, size: int) -> bytes:
    """Return the file up to its last sample, with the sizes of its chunks."""
    end = head.start + size
    whole = bytearray(data[:end])
    whole[head.size_at : head.size_at + head.size_bytes] = size.to_bytes(head.size_bytes, head.order)  # type: ignore[arg-type]
    if head.size_bytes == 4:
        whole[4:8] = (end - 8).to_bytes(4, head.order)  # type: ignore[arg-type]
    return bytes(whole)


def _end_of_samples(data: Data, start: int, order: str) -> int:
    """Return where samples of unknown length end: before known metadata that ends with the file, else at the end of the file."""
    end = len(data)
    for name in _METADATA:
        at = data.rfind(name, start)
        while at >= start:
            if at < end and _tiles(data, at, order):
                end = at
            at = data.rfind(name, start, at)
    return end


def _tiles(data: Data, offset: int, order: str) -> bool:
    """Return whether metadata chunks fill the file from `offset` to its end."""
    while offset + 8 <= len(data):
        name, size = data[offset : offset + 4], _int(data, offset + 4, 4, order)
        if name not in _METADATA:
            return False
        offset += 8 + size + (size & 1)
    return offset >= len(data) and offset - 1 <= len(data)


def _check_tail(data: Data, end: int, order: str) -> None:
    """Check the chunks after the samples. Some writers omit the padding byte after an odd number of bytes."""
    offsets = [end + (end & 1), end] if end & 1 else [end]
    errors = []
    for offset in offsets:
        try:
            return _walk_tail(data, offset, order)
        except DefectError as error:
            errors.append(error)
    raise errors[0]


def _walk_tail(data: Data, offset: int, order: str) -> None:
    while not is_padding(data, offset):
        name = bytes(data[offset : offset + 4])
        if name in _FORMS or name == b"data":
            raise joined(offset)
        if not is_name(name) or offset + 8 > len(data):
            raise trailing(data, offset)
        size = _int(data, offset + 4, 4, order)
        end = offset + 8 + size
        if end > len(data) and name not in _METADATA:
            raise trailing(data, offset)
        offset = end + (size & 1)
        if size & 1 and offset - 1 < len(data) and not is_padding(data, offset) and not is_name(bytes(data[offset : offset + 4])):
            offset -= 1


def _int(data: Data, offset: int, size: int, order: str) -> int:
    return int.from_bytes(data[offset : offset + size], order)  # type: ignore[arg-type]
