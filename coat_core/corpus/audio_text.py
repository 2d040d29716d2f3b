"""Audio inside a text: base64 or a data URI (RFC 2397)."""

from __future__ import annotations

import base64
import re
import tempfile
from pathlib import Path
from urllib.parse import unquote

import numpy as np
from numpy.typing import NDArray

from coat_core.corpus.audio import MAX_DURATION_S, decode
from coat_core.errors import AudioError, CoatError

_URL_SAFE = str.maketrans("-_", "+/")
_BASE64 = re.compile(r"[A-Za-z0-9+/]+={0,2}")
_SHOWN = 80


def is_data_uri(text: str) -> bool:
    """Return whether a text is a data URI, of any media type."""
    return text[:5].lower() == "data:"


def data_uri_bytes(text: str) -> bytes:
    """Return the bytes of a data URI. Parameters may stand before `;base64`.

    Raises:
        AudioError: it contains no base64.
    """
    head, comma, content = text.partition(",")
    parts = [part.strip().lower() for part in head.split(";")]
    data = base64_bytes(content) if comma and parts[-1] == "base64" else None
    if data is None:
        raise AudioError("the data URI contains no base64", field="audio", value=shown(text), allowed="data:audio/…;base64,…")
    return data


def base64_bytes(text: str) -> bytes | None:
    """Decode base64 of the standard or the URL-safe alphabet, with white space, with or without padding; None if it is invalid."""
    compact = unquote("".join(text.split())).translate(_URL_SAFE) if "%" in text else "".join(text.split()).translate(_URL_SAFE)
    if not _BASE64.fullmatch(compact):
        return None
    bare = compact.rstrip("=")
    try:
        return base64.b64decode(bare + "=" * (-len(bare) % 4), validate=True)
    except ValueError:
        return None


def decode_bytes(data: bytes, *, max_duration_s: float = MAX_DURATION_S, name: str = "the audio in base64") -> NDArray[np.float32]:
    """Return the waveform of the bytes of an audio file, mono float32 `[N]` at 16 kHz.

    Args:
        data: the bytes of the file.
        max_duration_s: longest duration, checked before the samples are decoded.
        name: what an error calls the file.

    Raises:
        AudioError: the bytes are of no audio file, or exceed a limit.
    """
    with tempfile.NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        try:
            return decode(Path(file.name), max_duration_s=max_duration_s)
        except CoatError as error:
            # The temporary name tells the caller nothing.
            reason = str(error).replace(file.name, name).replace(Path(file.name).name, name)
            raise AudioError(reason) from error


def shown(text: str) -> str:
    """Return the beginning of a long text."""
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
