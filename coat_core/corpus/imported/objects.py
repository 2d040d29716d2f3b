"""Strict reading of JSON Lines, and of files that contain one JSON array of objects."""

from __future__ import annotations

import bisect
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from coat_core.corpus.imported.encodings import LINE_END, read_utf8
from coat_core.corpus.imported.lines import Line, Mistakes

_SPACE = re.compile(r"[ \t\r\n]*")


def read_objects(path: Path, name: str, mistakes: Mistakes) -> Iterator[Line]:
    """Yield one JSON object a line, or the objects of one array. Blank lines are skipped.

    Values that are null are left out, except that of `answer`, which makes a row unlabelled. Lines that are not one JSON object, and keys
    that occur twice in an object, are added to `mistakes`.

    Raises:
        CorpusError: the encoding of the file is invalid.
    """
    text = read_utf8(path, name, mistakes)
    for index, (number, value) in enumerate(_array(text, name, mistakes) if text.lstrip().startswith("[") else _lines(text), 1):
        if isinstance(value, _Invalid):
            mistakes.add(name, number, f"row {index}: {value.reason}")
        elif not isinstance(value, dict):
            mistakes.add(name, number, f"row {index}: is not a JSON object but {_kind(value)}")
        else:
            row = {key: item for key, item in value.items() if item is not None or key == "answer"}
            yield Line(path, name, number, index, row)


class _Invalid:
    def __init__(self, reason: str) -> None:
        self.reason = reason


def _lines(text: str) -> Iterator[tuple[int, Any]]:
    lines = enumerate(_split(text), 1)
    for number, line in lines:
        if not line.strip():
            continue
        value = _parse(line)
        if isinstance(value, _Invalid) and line.strip() == "{":
            # An object over several lines: one error for the object, not one for each of its lines.
            next((following for _, following in lines if following.rstrip() in ("}", "},")), None)
            value = _Invalid("an object begins that does not end on this line; write each object on one line, or all in one array")
        yield number, value


def _split(text: str) -> Iterator[str]:
    """Yield the lines of a text; a list of all would take as much memory as the text."""
    position = 0
    for end in LINE_END.finditer(text):
        yield text[position : end.start()]
        position = end.end()
    yield text[position:]


def _array(text: str, name: str, mistakes: Mistakes) -> Iterator[tuple[int, Any]]:
    ends = [match.end() for match in LINE_END.finditer(text)]
    position = _skip(text, text.index("[") + 1)
    if text[position : position + 1] == "]":
        position += 1
    else:
        while True:
            number = bisect.bisect_right(ends, position) + 1
            try:
                value, position = _DECODER.raw_decode(text, position)
            except (ValueError, RecursionError) as error:
                yield number, _Invalid(_reason(error))
                return
            yield number, value
            position = _skip(text, position)
            follows = text[position : position + 1]
            if follows not in (",", "]"):
                number = bisect.bisect_right(ends, position) + 1
                mistakes.add(name, number, f"the JSON array is not closed, or a comma is missing: {text[position : position + 40]!r}")
                return
            position = _skip(text, position + 1)
            if follows == "]":
                break
    position = _skip(text, position)
    if position < len(text):
        number = bisect.bisect_right(ends, position) + 1
        mistakes.add(name, number, f"text follows the JSON array: {text[position : position + 40]!r}")


def _skip(text: str, position: int) -> int:
    match = _SPACE.match(text, position)
    assert match is not None
    return match.end()


def _parse(line: str) -> Any:
    try:
        return json.loads(line, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        return _Invalid(_reason(error))


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = [key for key, _ in pairs]
    twice = sorted({key for key in keys if keys.count(key) > 1}) if len(set(keys)) < len(keys) else []
    if twice:
        raise ValueError(f"keys occur more than once: {', '.join(map(ascii, twice))}; remove one of them")
    return dict(pairs)


_DECODER = json.JSONDecoder(object_pairs_hook=_unique)


def _reason(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "is not readable JSON: it is nested too deeply"
    if isinstance(error, json.JSONDecodeError):
        words = f"is not JSON: {error.msg} at character {error.colno}"
        return f"{words}; write one object a line" if error.msg == "Extra data" else words
    return str(error)


def _kind(value: Any) -> str:
    return "an array" if isinstance(value, list) else "a text" if isinstance(value, str) else json.dumps(value)[:20]
