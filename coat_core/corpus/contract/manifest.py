"""Strict reading of a corpus manifest: every line that is not a JSON object in UTF-8 is reported."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from coat_core.corpus.examples import escape_surrogates
from coat_core.errors import ContractError

_SHOWN = 20
_SHOWN_CHARACTERS = 80
_MARK = b"\xef\xbb\xbf"


def iterate_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield line number and object of each row of a manifest. Empty lines and a byte order mark are skipped.

    Raises:
        ContractError: the manifest is missing; after the last row: it has no rows, or lines are not JSON objects in UTF-8. The message
            names up to 20 lines.
    """
    if not path.is_file():
        raise ContractError("the manifest is missing", field="manifest", value=str(path), next_step="run the corpus stage")
    count = 0
    mistakes: list[str] = []
    with path.open("rb") as stream:
        for number, line in enumerate(stream, 1):
            data = (line.removeprefix(_MARK) if number == 1 else line).removesuffix(b"\n")
            if not data.strip():
                continue
            try:
                row = _row(data)
            except ValueError as error:
                shown = data[:_SHOWN_CHARACTERS].decode("utf-8", "backslashreplace")
                mistakes.append(escape_surrogates(f"line {number} {error} ({shown!r})"))
            else:
                count += 1
                yield number, row
    if mistakes:
        more = f"; and {len(mistakes) - _SHOWN} more lines" if len(mistakes) > _SHOWN else ""
        raise ContractError(
            f"{path}: {'; '.join(mistakes[:_SHOWN])}{more}",
            allowed="one JSON object in UTF-8 on each line",
            next_step="fix these lines, or run the corpus stage again",
        )
    if not count:
        raise ContractError("the manifest has no rows", field="manifest", value=str(path), next_step="run the corpus stage again")


def _row(data: bytes) -> dict[str, Any]:
    """Return the object on one line.

    Raises:
        ValueError: the line is not UTF-8, not JSON or not an object, or a key occurs twice.
    """
    try:
        value = json.loads(data.decode("utf-8"), object_pairs_hook=_unique)
    except UnicodeDecodeError as error:
        raise ValueError(f"is not UTF-8: byte {error.start + 1} is 0x{data[error.start]:02x}") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"is not JSON: {error.msg} at column {error.colno}") from None
    except RecursionError:
        raise ValueError("is nested too deeply") from None
    if not isinstance(value, dict):
        raise ValueError("is not a JSON object")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object whose keys are distinct; `json` would keep the last value of a repeated key and lose the others."""
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"has the key {next(name for name in names if names.count(name) > 1)!r} twice")
    return found
