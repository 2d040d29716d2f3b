"""A queue in which one question is answered at a time, in the order of arrival."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator


class Turns:
    """The questions that wait and the one that is answered."""

    def __init__(self) -> None:
        self._line: list[object] = []
        self._moved = asyncio.Event()

    async def places(self, ticket: object) -> AsyncGenerator[int]:
        """Append a ticket; yield how many are before it, again after each change, until it is first. `leave` must follow."""
        self._line.append(ticket)
        while before := self._line.index(ticket):
            moved = self._moved
            yield before
            await moved.wait()

    def leave(self, ticket: object) -> None:
        """Remove a ticket, whether it was first or not, and let the others move up."""
        if ticket in self._line:
            self._line.remove(ticket)
        moved, self._moved = self._moved, asyncio.Event()
        moved.set()
