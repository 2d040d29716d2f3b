"""AIFF and AIFC (Audio Interchange File Format, Apple, 1989 and 1991)."""

from __future__ import annotations

from coat_core.corpus.containers.coding import bytes_per_frame, frames_in
from coat_core.corpus.containers.contents import Contents, Data, DefectError, Stream, check_available, is_name, is_padding, joined, trailing

_METADATA = (
    b"(c) ", b"AESD", b"ANNO", b"APPL", b"AUTH", b"CHAN", b"COMT", b"FLLR", b"FVER", b"ID3 ", b"INST", b"MARK", b"MIDI", b"NAME", b"PEAK",
)  # fmt: skip
"""Chunks that may be cut without loss of samples."""
_IMA_BLOCK_BYTES, _IMA_BLOCK_FRAMES = 34, 64
_GSM_BLOCK = (33, 160)


def scan_aiff(data: Data, stream: Stream) -> Contents:
    """Return what an AIFF or AIFC file holds: the COMM chunk declares the frames, the SSND chunk contains them.

    Raises:
        DefectError: the file is truncated, the two chunks disagree, it contains two streams, or bytes that no chunk declares.
    """
    declared, size, offset = None, None, 12
    while not is_padding(data, offset):
        name, length = bytes(data[offset : offset + 4]), int.from_bytes(data[offset + 4 : offset + 8], "big")
        start = offset + 8
        if name == b"FORM" or (name == b"SSND" and size is not None):
            raise joined(offset)
        if not is_name(name) or start > len(data):
            raise trailing(data, offset)
        if name == b"COMM":
            declared = int.from_bytes(data[start + 2 : start + 6], "big")
        elif name == b"SSND":
            shift = int.from_bytes(data[start : start + 4], "big")
            check_available(length, len(data) - start)
            if shift:
                raise DefectError(f"the SSND chunk has an offset of {shift} bytes, which is not supported")
            size = length - 8
        elif start + length > len(data):
            if size is None:
                break
            if name not in _METADATA:
                raise trailing(data, offset)
        offset = start + length + (length & 1)
    if declared is None or size is None or size < 0:
        raise DefectError("the file is truncated: it contains no complete COMM and SSND chunks")
    block = {"IMA_ADPCM": (_IMA_BLOCK_BYTES * stream.channels, _IMA_BLOCK_FRAMES), "GSM610": _GSM_BLOCK}.get(stream.subtype)
    contents = frames_in(stream, size, block)
    if bytes_per_frame(stream) is not None and contents.frames != declared:
        raise DefectError(f"the COMM chunk declares {declared} frames, the SSND chunk contains {contents.frames}")
    return contents
