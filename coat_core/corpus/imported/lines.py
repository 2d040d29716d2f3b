"""Rows of a data file with their positions, and the collected errors of its rows."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from coat_core.errors import CorpusError

Row = dict[str, Any]
SHOWN = 20
"""Largest number of errors in one message."""
_NO_ROW: Row = {}


@dataclass(frozen=True, slots=True)
class Line:
    """One row of a metadata file or manifest."""

    file: Path
    """The file that contains the row."""
    name: str
    """The name of this file in messages, relative to the source folder."""
    number: int
    """Line of the file where the row begins, from 1."""
    index: int
    """Number of the row in the file, from 1. It differs from `number` by the header and by blank lines."""
    row: Row

    @property
    def place(self) -> str:
        """The line and the row."""
        return f"line {self.number}, row {self.index}"

    def without_row(self) -> Line:
        """Return the position alone, for messages."""
        return replace(self, row=_NO_ROW)


@dataclass
class Mistakes:
    """The errors of all rows, by file and line."""

    found: list[tuple[str, int, str]] = field(default_factory=list)

    def add(self, name: str, number: int, message: str) -> None:
        """Add an error at a line of a file."""
        self.found.append((name, number, message))

    def add_line(self, line: Line, message: str) -> None:
        """Add an error of a row."""
        self.add(line.name, line.number, f"row {line.index}: {message}")

    def check(self) -> None:
        """Raise if there are errors.

        Raises:
            CorpusError: the message gives the first 20 errors, in the order of the lines, and the number of the others.
        """
        if not self.found:
            return
        parts: list[str] = []
        last = ""
        for name, number, message in sorted(self.found, key=lambda item: (item[0], item[1]))[:SHOWN]:
            parts.append(f"{f'{name}: ' if name != last else ''}line {number}, {message}")
            last = name
        more = f"; and {len(self.found) - SHOWN} more" if len(self.found) > SHOWN else ""
        raise CorpusError(f"{'; '.join(parts)}{more}", next_step="fix or remove these rows; nothing was written")
