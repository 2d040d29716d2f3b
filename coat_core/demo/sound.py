"""A clip as a response that players can seek in."""

from __future__ import annotations

import re

from fastapi import Response

_RANGE = re.compile(r"bytes=(\d*)-(\d*)")


def sound_response(data: bytes, wanted: str | None) -> Response:
    """Return a FLAC file, or the part of it that a `Range` header names (RFC 9110 § 14); without parts, Chromium seeks to the start only.

    Args:
        data: bytes of the file.
        wanted: the header; one that is not a single range of bytes is ignored, as the RFC allows.
    """
    headers = {"Accept-Ranges": "bytes"}
    found = _RANGE.fullmatch(wanted or "")
    if found is None or not (found[1] or found[2]):
        return Response(data, media_type="audio/flac", headers=headers)
    # "-n" are the last n bytes.
    first = int(found[1]) if found[1] else max(0, len(data) - int(found[2]))
    last = min(int(found[2]), len(data) - 1) if found[1] and found[2] else len(data) - 1
    if first > last:
        return Response(status_code=416, headers={**headers, "Content-Range": f"bytes */{len(data)}"})
    return Response(
        data[first : last + 1], 206, {**headers, "Content-Range": f"bytes {first}-{last}/{len(data)}"}, media_type="audio/flac"
    )  # fmt: skip
