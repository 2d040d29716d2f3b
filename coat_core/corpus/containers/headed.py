"""AU (Sun/NeXT) and NIST SPHERE: one header with the number of samples, then the samples up to the end of the file."""

from __future__ import annotations

import re
from dataclasses import replace

from coat_core.corpus.containers.coding import bytes_per_frame, frames_in
from coat_core.corpus.containers.contents import Contents, Data, DefectError, Stream, check_available, is_padding, trailing

_AU_UNKNOWN = 0xFFFFFFFF
_AU_MIN_HEADER_BYTES = 24
_SPHERE_HEADER = re.compile(rb"NIST_1A\r?\n\s*(\d{1,7})\r?\n")
_SPHERE_COUNT = re.compile(rb"(?m)^sample_count\s+-i\s+(\d{1,12})\s*$")


def scan_au(data: Data, stream: Stream) -> Contents:
    """Return what an AU file holds. A writer that cannot seek leaves 0xFFFFFFFF (or 0) as data size.

    Raises:
        DefectError: the file is truncated, or contains bytes after the declared samples.
    """
    order = "big" if data[:4] == b".snd" else "little"
    start, declared = (int.from_bytes(data[at : at + 4], order) for at in (4, 8))  # type: ignore[arg-type]
    available = len(data) - start
    if start < _AU_MIN_HEADER_BYTES or available < 0:
        raise DefectError("the file is truncated: its header is incomplete")
    if declared == _AU_UNKNOWN or declared == 0:
        whole = bytearray(data[:])
        whole[8:12] = available.to_bytes(4, order)  # type: ignore[arg-type]
        return replace(frames_in(stream, available), rewritten=bytes(whole))
    check_available(declared, available)
    if not is_padding(data, start + declared):
        raise trailing(data, start + declared)
    return frames_in(stream, declared)


def scan_sphere(data: Data, stream: Stream) -> Contents:
    """Return what a NIST SPHERE file holds.

    Raises:
        DefectError: the file is truncated, contains bytes after the declared samples, or declares no number of samples.
    """
    head = _SPHERE_HEADER.match(data[:32])
    start = int(head.group(1)) if head else len(data)
    count = _SPHERE_COUNT.search(data[: min(start, len(data))])
    frame = bytes_per_frame(stream)
    if count is None or frame is None:
        raise DefectError("the header does not declare the number of samples (sample_count)")
    size = int(count.group(1)) * frame
    check_available(size, len(data) - start)
    if not is_padding(data, start + size):
        raise trailing(data, start + size)
    return Contents(int(count.group(1)))
