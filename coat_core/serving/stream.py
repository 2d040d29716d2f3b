"""One answer in pieces: from the thread that computes to a coroutine."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

from coat_core.backbones.base import Query
from coat_core.serving.batcher import Batcher, Job, Reply


async def answer_in_pieces(batcher: Batcher, query: Query, max_tokens: int) -> AsyncGenerator[str | Reply]:
    """Yield each new piece of an answer while it is generated, then its reply. If it is closed, a question that waits is not computed.

    Args:
        batcher: answers the question.
        query: the question and its audio.
        max_tokens: most tokens of the answer.

    Raises:
        CoatError: the question cannot be answered.
    """
    loop, pieces = asyncio.get_running_loop(), asyncio.Queue[str | None]()
    reply = batcher.submit(Job(query, max_tokens, lambda piece: _call(loop, pieces, piece)))
    reply.add_done_callback(lambda _: _call(loop, pieces, None))
    try:
        while (piece := await pieces.get()) is not None:
            yield piece
        yield reply.result()
    finally:
        reply.cancel()


def _call(loop: asyncio.AbstractEventLoop, pieces: asyncio.Queue[str | None], piece: str | None) -> None:
    # The loop is closed if the server ended before the answer.
    if not loop.is_closed():
        loop.call_soon_threadsafe(pieces.put_nowait, piece)
