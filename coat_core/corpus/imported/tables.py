r"""Strict reading of tables with a header: CSV as in RFC 4180, also with semicolons or tabs, and any line end (\r\n, \n, \r).

Every record must have as many fields as the header, and a quotation mark at the start of a field must be closed at its end. A reader
that tolerates other records assigns values to wrong columns or joins rows without an error.
"""

from __future__ import annotations

import bisect
import re
from collections.abc import Iterator
from pathlib import Path

from coat_core.corpus.imported.encodings import LINE_END, read_utf8
from coat_core.corpus.imported.lines import Line, Mistakes
from coat_core.errors import CorpusError

_DELIMITERS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "vertical bar"}
_READ = (",", ";", "\t")
_QUOTED = re.compile('"((?:[^"]++|"")*+)"')
_AUDIO_NAME = re.compile(r"\.(wav|flac|mp3|ogg|oga|opus|m4a|aac|aiff?|au|caf|w64|rf64|sph|webm|wma)\b", re.IGNORECASE)
_UNNAMED = "(no name)"


def read_table(path: Path, name: str, audio_columns: tuple[str, ...], mistakes: Mistakes, required: tuple[str, ...] = ()) -> Iterator[Line]:
    """Yield the rows of a table. Values are stripped; an empty value is left out of its row; blank lines are skipped.

    The delimiter is the one with which the header contains a column of `audio_columns`. Invalid records are added to `mistakes`.

    Raises:
        CorpusError: the encoding or the header is invalid.
    """
    text = read_utf8(path, name, mistakes)
    delimiter, header = _header(text, name, audio_columns)
    columns = _columns(header, name)
    if missing := [column for column in required if column not in header]:
        message = f"{name}: line 1: columns are missing: {', '.join(missing)}"
        raise CorpusError(message, field="columns", value=header, allowed=required, next_step="add the columns")
    for index, (number, record) in enumerate(_records(text, delimiter, path.parent, name, mistakes)):
        if index == 0 or record is None:
            continue
        values = [value.strip() for value in record]
        if len(values) != len(header):
            mistakes.add(name, number, f"row {index}: {_count_message(values, header, delimiter)}")
            continue
        unnamed = [value for column, value in zip(columns, values, strict=True) if column is None and value]
        if unnamed:
            mistakes.add(name, number, f"row {index}: the value {_short(unnamed[0])} is in a column without a name")
            continue
        row = {column: value for column, value in zip(columns, values, strict=True) if column is not None and value}
        yield Line(path, name, number, index, row)


def _header(text: str, name: str, audio_columns: tuple[str, ...]) -> tuple[str, list[str]]:
    """Return delimiter and header.

    Raises:
        CorpusError: no delimiter gives a header with a column for the audio file.
    """
    found: dict[str, list[str]] = {}
    for delimiter in _DELIMITERS:
        first = next(_records(text, delimiter, Path(), name, Mistakes()), None)
        header = [] if first is None or first[1] is None else [value.strip() for value in first[1]]
        if set(audio_columns) & set(header):
            if delimiter not in _READ:
                raise CorpusError(
                    f"{name}: line 1: the delimiter is the {_DELIMITERS[delimiter]}",
                    field="delimiter",
                    value=delimiter,
                    allowed="comma, semicolon, tab",
                    next_step="save the file with commas",
                )
            return delimiter, header
        found.setdefault(delimiter, header)
    raise CorpusError(
        f"{name}: line 1: the column {audio_columns[0]} is missing",
        field="columns",
        value=found[","],
        allowed=f"a column {' or '.join(audio_columns)}",
        next_step="add or rename the column",
    )


def _columns(header: list[str], name: str) -> list[str | None]:
    """Return the column names. Columns without a name are None, except the first, which pandas writes without a name (its index).

    Raises:
        CorpusError: a name occurs twice.
    """
    twice = sorted({column for column in header if column and header.count(column) > 1})
    if twice:
        raise CorpusError(
            f"{name}: line 1: columns occur more than once: {', '.join(twice)}",
            field="columns",
            value=header,
            next_step="rename or remove one",
        )
    return [column or (_UNNAMED if position == 0 else None) for position, column in enumerate(header)]


def _count_message(values: list[str], header: list[str], delimiter: str) -> str:
    words = f"{len(values)} fields, the header has {len(header)}"
    if len(values) > len(header):
        return f"{words}: a value that contains a {_DELIMITERS[delimiter]} must be in quotation marks"
    return f"{words}: a value or a delimiter is missing, or a line end inside a value is not in quotation marks"


def _records(text: str, delimiter: str, folder: Path, name: str, mistakes: Mistakes) -> Iterator[tuple[int, list[str] | None]]:
    """Yield line and fields of each record that is not blank; None instead of the fields of an invalid record.

    After an invalid record, reading continues at the next line, so that the errors of other lines are found too.
    """
    ends = [match.end() for match in LINE_END.finditer(text)]
    unquoted = re.compile(f"[^{re.escape(delimiter)}\r\n]*")
    position, index = 0, 0
    while position < len(text):
        line = bisect.bisect_right(ends, position)
        next_line = ends[line] if line < len(ends) else len(text)
        fields, after, problem = _record(text, position, delimiter, unquoted)
        problem = problem or _joined(text[position:after], fields, folder, delimiter)
        if problem:
            mistakes.add(name, line + 1, f"row {index}: {problem}" if index else problem)
            yield line + 1, None
            position, index = next_line, index + 1
            continue
        if any(field.strip() for field in fields):
            yield line + 1, fields
            index += 1
        position = after


def _record(text: str, position: int, delimiter: str, unquoted: re.Pattern[str]) -> tuple[list[str], int, str]:
    """Return the fields of the record at `position`, the position after its line end, and what is wrong with it."""
    fields: list[str] = []
    while True:
        while text[position : position + 1] == " ":
            position += 1
        if text[position : position + 1] == '"':
            match = _QUOTED.match(text, position)
            if match is None:
                return fields, position, "a quotation mark at the start of a value is not closed"
            fields.append(match[1].replace('""', '"'))
            position = match.end()
            while text[position : position + 1] == " ":
                position += 1
        else:
            match = unquoted.match(text, position)
            assert match is not None
            fields.append(match[0])
            position = match.end()
        follows = text[position : position + 1]
        if follows == delimiter:
            position += 1
            continue
        if not follows:
            return fields, position, ""
        end = LINE_END.match(text, position)
        if end is None:
            problem = f'text follows a closing quotation mark: {_short(text[position : position + 20])}; write "" for a mark inside a value'
            return fields, position, problem
        return fields, end.end(), ""


def _joined(raw: str, fields: list[str], folder: Path, delimiter: str) -> str:
    """Return what is wrong if a quoted value contains a line end and a file name: a stray quotation mark has joined rows."""
    for value in fields:
        if not LINE_END.search(value.strip()):
            continue
        pieces = [piece.strip(' "') for line in LINE_END.split(value) for piece in line.split(delimiter)]
        if any(_AUDIO_NAME.search(piece) or _is_file(folder, piece) for piece in pieces):
            count = len(LINE_END.findall(raw.rstrip("\r\n"))) + 1
            return f"a value in quotation marks contains {count} lines and the name of an audio file: a quotation mark is missing or stray"
    return ""


def _is_file(folder: Path, piece: str) -> bool:
    try:
        return bool(piece) and len(piece) < 256 and (folder / piece).is_file()
    except (OSError, ValueError):
        return False


def _short(value: str) -> str:
    return repr(value if len(value) <= 40 else f"{value[:40]}…")
