"""The events of one question: its place in the queue, the models' answers in pieces, their times, and the read-outs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from coat_core.ask import find_choice
from coat_core.demo.models import DemoModel, DemoModels
from coat_core.demo.request import Asked
from coat_core.demo.turns import Turns
from coat_core.errors import CoatError
from coat_core.evaluation.scorers import Unscored, score
from coat_core.report.items import verdict_of
from coat_core.serving.batcher import Reply
from coat_core.serving.stream import answer_in_pieces

Event = dict[str, Any]


async def question_events(asked: Asked, models: DemoModels, turns: Turns, timeout_s: float, tolerance: float) -> AsyncGenerator[Event]:
    """Yield the events of a question: `queued`; for each model `start`, `text`, `answer`; `reading`, `read_out` of those with heads; `end`.

    An `error` of one model does not keep the others from answering. If the iterator is closed, what has not begun is not computed.

    Args:
        asked: the question.
        models: they answer one after another, so that their times can be compared.
        turns: the questions of all visitors.
        timeout_s: longest time for all answers and read-outs, without the time in the queue.
        tolerance: largest absolute error of a correct numeric answer.
    """
    ticket = object()
    try:
        async for before in turns.places(ticket):
            yield {"event": "queued", "before": before}
        async with asyncio.timeout(timeout_s), aclosing(_events(asked, models, tolerance)) as events:
            async for event in events:
                yield event
    except TimeoutError:
        yield {
            "event": "error",
            "model": None,
            "message": f"the models took more than {timeout_s:g} s; ask about a shorter clip, or fewer tokens",
        }
    finally:
        turns.leave(ticket)
    yield {"event": "end"}


async def _events(asked: Asked, models: DemoModels, tolerance: float) -> AsyncGenerator[Event]:
    for number, model in enumerate(models.models):
        yield {"event": "start", "model": number}
        try:
            async with aclosing(answer_in_pieces(model.batcher, asked.query, asked.max_tokens)) as pieces:
                async for piece in pieces:
                    if isinstance(piece, Reply):
                        yield {"event": "answer", "model": number, **_answer(asked, piece, tolerance)}
                        break
                    yield {"event": "text", "model": number, "text": piece}
        except Exception as error:
            yield _error(number, "the answer failed", error)
    readable = [(number, model) for number, model in enumerate(models.models) if model.heads]
    if not readable:
        return
    yield {"event": "reading"}
    try:
        measured = await asyncio.to_thread(models.measure, asked)
    except Exception as error:
        yield _error(None, "the experts failed", error)
        return
    for number, model in readable:
        yield await _read_out(models, number, model, asked, measured)


async def _read_out(models: DemoModels, number: int, model: DemoModel, asked: Asked, measured: Any) -> Event:
    try:
        plot = await asyncio.to_thread(models.read_out, model, asked, measured)
    except Exception as error:
        return _error(number, "the read-out failed", error)
    return {"event": "read_out", "model": number, "plot": plot}


def _error(model: int | None, what: str, error: Exception) -> Event:
    # Other errors are mistakes of the program: their text may name what a visitor must not see.
    return {"event": "error", "model": model, "message": str(error) if isinstance(error, CoatError) else f"{what}: {type(error).__name__}"}


def _answer(asked: Asked, reply: Reply, tolerance: float) -> Event:
    example = asked.example
    choice, note = find_choice(example.choices, reply.text)
    known = None
    if example.answer:
        result = score(example, reply.text, numeric_tolerance=tolerance)
        known = verdict_of(None if isinstance(result, Unscored) else result.value)
    return {
        "text": reply.text, "finished": reply.finished, "tokens": reply.decoded_tokens, "prompt_tokens": reply.prompt_tokens,
        "first_token_s": reply.first_token_s, "seconds": reply.seconds, "choice": choice, "note": note, "verdict": known,
        "right_answer": example.answer or None,
    }  # fmt: skip
