"""Strict decoding of text files: UTF-8, with or without a byte order mark."""

from __future__ import annotations

import codecs
import re
from pathlib import Path

from coat_core.corpus.imported.lines import Mistakes
from coat_core.errors import CorpusError

_MARKS = (
    (codecs.BOM_UTF32_LE, "UTF-32"),
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)
_BINARY = ((b"\x1f\x8b", "gzip"), (b"PK\x03\x04", "ZIP (an .xlsx file is one)"), (b"PAR1", "Parquet"))
_SAVE = "save the file as UTF-8"
LINE_END = re.compile("\r\n|\n|\r")


def read_utf8(path: Path, name: str, mistakes: Mistakes) -> str:
    """Return the text of a UTF-8 file without its byte order mark. Lines with invalid bytes are added to `mistakes` and left out.

    Raises:
        CorpusError: the file cannot be read, or the whole file has another encoding. The message names file and line.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CorpusError(f"{name}: cannot be read: {error.strerror}", field="corpus.path", value=str(path)) from error
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            raise CorpusError(f"{name}: line 1: the file is {encoding}", field="encoding", allowed="UTF-8", next_step=_SAVE)
    for mark, kind in _BINARY:
        if data.startswith(mark):
            raise CorpusError(f"{name}: line 1: the file is {kind}, not text", field="encoding", allowed="UTF-8", next_step="unpack it")
    if b"\0" in data:
        number = _line_at(data, data.index(b"\0"))
        raise CorpusError(
            f"{name}: line {number}: the file contains NUL bytes; it may be UTF-16 without a byte order mark",
            field="encoding",
            allowed="UTF-8",
            next_step=_SAVE,
        )
    data = data.removeprefix(codecs.BOM_UTF8)
    try:
        return data.decode()
    except UnicodeDecodeError:
        return _valid_lines(data, name, mistakes)


def _valid_lines(data: bytes, name: str, mistakes: Mistakes) -> str:
    """Return the text with an empty line in place of each line that is not UTF-8."""
    lines = []
    for number, line in enumerate(re.split(b"\r\n|\n|\r", data), 1):
        try:
            lines.append(line.decode())
        except UnicodeDecodeError as error:
            byte = line[error.start]
            meant = bytes([byte]).decode("cp1252", errors="replace")
            mistakes.add(
                name,
                number,
                f"byte 0x{byte:02x} at position {error.start + 1} is not UTF-8 (in Windows-1252 it is {meant!r}); {_SAVE}",
            )
            lines.append("")
    return "\n".join(lines)


def _line_at(data: bytes, position: int) -> int:
    return len(re.findall(b"\r\n|\n|\r", data[:position])) + 1
