"""What the bytes of an audio file hold, and the rules that several containers share."""

from __future__ import annotations

from dataclasses import dataclass
from mmap import mmap

Data = bytes | mmap
"""The bytes of a file, in memory or mapped."""

MAX_PADDING_BYTES = 4096
"""Longest run of zero bytes after the last chunk that counts as padding."""
_ID3V1_BYTES = 128


class DefectError(ValueError):
    """The bytes of a file differ from what its header declares. The message does not contain the path."""


@dataclass(frozen=True)
class Stream:
    """What libsndfile reads from a header: the coding and the number of channels decide how many bytes a frame has."""

    subtype: str
    channels: int
    frames: int
    sample_rate_hz: int


@dataclass(frozen=True)
class Contents:
    """Frames (samples per channel) that the bytes of a file hold. A decoder must return `frames - slack` to `frames` of them."""

    frames: int
    slack: int = 0
    rewritten: bytes | None = None
    """The file with a header that declares `frames`, if its own does not."""
    md5: bytes | None = None
    """MD5 of the samples as little-endian integers of `bits` bits (FLAC)."""
    bits: int = 0


def check_available(declared: int, available: int) -> None:
    """Raise `DefectError` if a header declares more bytes of samples than the file contains."""
    if declared > available:
        raise DefectError(f"the file is truncated: the header declares {declared} bytes of samples, the file contains {available}")


def is_padding(data: Data, start: int) -> bool:
    """Return whether the bytes from `start` to the end contain no samples: nothing, a few zeros or an ID3v1 tag."""
    left = len(data) - start
    if left == _ID3V1_BYTES and data[start : start + 3] == b"TAG":
        return True
    return left <= 0 or (left <= MAX_PADDING_BYTES and not any(data[start:]))


def is_name(name: bytes) -> bool:
    """Return whether four bytes can be the name of a chunk: printable ASCII."""
    return len(name) == 4 and all(0x20 <= byte < 0x7F for byte in name)


def trailing(data: Data, start: int) -> DefectError:
    """Return the error for bytes after the samples that are neither metadata nor padding."""
    return DefectError(
        f"{len(data) - start} bytes after the declared samples are neither metadata nor padding: "
        "the declared length is wrong, or files were joined"
    )


def joined(position: int) -> DefectError:
    """Return the error for a second stream in a file."""
    return DefectError(f"the file contains a second audio stream at byte {position}: files were joined, only the first would decode")
