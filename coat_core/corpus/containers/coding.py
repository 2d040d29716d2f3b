"""Bytes of each coding of samples."""

from __future__ import annotations

from coat_core.corpus.containers.contents import Contents, DefectError, Stream

_SAMPLE_BYTES = {
    "PCM_S8": 1, "PCM_U8": 1, "PCM_16": 2, "PCM_24": 3, "PCM_32": 4, "FLOAT": 4, "DOUBLE": 8, "ULAW": 1, "ALAW": 1,
}  # fmt: skip


def bytes_per_frame(stream: Stream) -> int | None:
    """Return the bytes of one sample of all channels; None if the coding has no fixed size per sample."""
    size = _SAMPLE_BYTES.get(stream.subtype)
    return None if size is None else size * stream.channels


def frames_in(stream: Stream, size: int, block: tuple[int, int] | None = None) -> Contents:
    """Return the frames in `size` bytes of samples.

    Args:
        stream: coding and channels.
        size: bytes of samples.
        block: bytes and frames of one block of a compressed coding.

    Raises:
        DefectError: the frames in a number of bytes are not known for this coding.
    """
    frame = bytes_per_frame(stream)
    if frame is not None:
        return Contents(size // frame)
    if block is None or min(block) <= 0:
        raise DefectError(f"the coding {stream.subtype} is not supported: the number of samples in the file cannot be checked")
    # The last block may be padded: the header declares how many of its frames are samples.
    return Contents(-(-size // block[0]) * block[1], slack=block[1])
