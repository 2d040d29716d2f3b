"""Recognition of containers, and the scanner of each."""

from __future__ import annotations

from coat_core.corpus.containers.aiff import scan_aiff
from coat_core.corpus.containers.caf import scan_caf
from coat_core.corpus.containers.contents import Contents, Data, DefectError, Stream
from coat_core.corpus.containers.flac import scan_flac
from coat_core.corpus.containers.headed import scan_au, scan_sphere
from coat_core.corpus.containers.mpeg import scan_mpeg, starts_mpeg
from coat_core.corpus.containers.ogg import scan_ogg
from coat_core.corpus.containers.riff import scan_riff
from coat_core.corpus.containers.tags import skip_id3
from coat_core.corpus.containers.wave64 import RIFF_GUID, scan_wave64

FORMATS = ("WAV", "WAVEX", "RF64", "W64", "AIFF", "AU", "CAF", "NIST", "FLAC", "OGG", "MP3")
"""Formats whose bytes tell whether a file is complete, by libsndfile's names. Others are refused."""
_FAMILIES = {"WAV": ("WAV", "WAVEX"), "RF64": ("RF64",)}


def recognise(data: Data) -> str | None:
    """Return the container of a file: one of `FORMATS`, or None."""
    head = bytes(data[:16])
    if head[8:12] == b"WAVE" and head[:4] in (b"RIFF", b"RIFX", b"RF64", b"BW64"):
        return "RF64" if head[:4] in (b"RF64", b"BW64") else "WAV"
    if head == RIFF_GUID:
        return "W64"
    if head[:4] == b"FORM" and head[8:12] in (b"AIFF", b"AIFC"):
        return "AIFF"
    for magic, name in ((b".snd", "AU"), (b"dns.", "AU"), (b"caff", "CAF"), (b"NIST_1A", "NIST"), (b"OggS", "OGG")):
        if head.startswith(magic):
            return name
    start = skip_id3(data, 0)
    if data[start : start + 4] == b"fLaC":
        return "FLAC"
    return "MP3" if starts_mpeg(data) else None


def scan(container: str, data: Data, stream: Stream) -> Contents:
    """Return what the bytes of a file hold.

    Raises:
        DefectError: the file is truncated, contains two streams, or its length cannot be told.
    """
    scanners = {
        "WAV": scan_riff, "RF64": scan_riff, "W64": scan_wave64, "AIFF": scan_aiff, "AU": scan_au, "CAF": scan_caf, "NIST": scan_sphere,
        "OGG": scan_ogg, "MP3": scan_mpeg, "FLAC": scan_flac,
    }  # fmt: skip
    try:
        return scanners[container](data, stream)
    except IndexError as error:
        raise DefectError("the file is truncated: its header is incomplete") from error


def agrees(container: str, format_name: str) -> bool:
    """Return whether libsndfile reads a file as the container that its first bytes tell."""
    return format_name in _FAMILIES.get(container, (container,))
