"""The application: chat completions, the list of models, metrics, and whatever application answers the other paths."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse

from coat_core import logs
from coat_core.errors import CoatError
from coat_core.serving.batcher import Answers, Batcher, Job, Reply
from coat_core.serving.chat import ChatRequest, Chunks, completion, error_body, model_list, read_request
from coat_core.serving.guard import App, Guard
from coat_core.serving.limits import Limits
from coat_core.serving.metrics import METRICS_TYPE
from coat_core.serving.stream import answer_in_pieces

COMPLETIONS, INVOCATIONS = "/v1/chat/completions", "/invocations"


def make_app(name: str, answers: Answers, limits: Limits, other: App | None = None) -> Guard:
    """Return the server's application.

    Args:
        name: name of the model, as clients give it.
        answers: computes the answers.
        limits: limits of the server.
        other: application for all other paths (MLflow's scoring protocol).
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        # Every accepted question is answered before the process ends.
        await asyncio.to_thread(batcher.close)
        logs.event("server_stopped", "every accepted question is answered")

    app = FastAPI(title="coat", lifespan=lifespan, openapi_url=None)
    guard = Guard(app, limits, frozenset({COMPLETIONS, INVOCATIONS}))
    metrics = guard.metrics
    batcher = Batcher(answers, limits.batch, lambda size: metrics.batch_size.observe(size))

    @app.get("/metrics")
    async def show_metrics() -> Response:
        return Response(metrics.text(), media_type=METRICS_TYPE)

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return model_list([name])

    @app.post(COMPLETIONS)
    async def complete(request: Request) -> Response:
        try:
            body = json.loads(await request.body())
        except (ValueError, RecursionError):
            return _error(422, "the body is no JSON", "body")
        try:
            # Decoding takes a while: other requests must not wait for it.
            wanted = await asyncio.to_thread(read_request, body, name, limits)
        except CoatError as error:
            return _error(422, str(error), error.field)
        if wanted.stream:
            return StreamingResponse(_stream(wanted, batcher, guard, name, limits.timeout_s), media_type="text/event-stream")
        job = Job(wanted.query, wanted.max_tokens)
        try:
            reply = await asyncio.wait_for(asyncio.wrap_future(batcher.submit(job)), limits.timeout_s)
        except TimeoutError:
            return _error(504, f"no answer within {limits.timeout_s:g} s", None)
        except CoatError as error:
            return _error(422, str(error), error.field)
        _count(guard, reply)
        return JSONResponse(completion(name, reply))

    if other is not None:
        app.mount("/", other)
    return guard


async def _stream(wanted: ChatRequest, batcher: Batcher, guard: Guard, name: str, timeout_s: float) -> AsyncIterator[str]:
    """Yield the events of a streamed answer. The client's disconnect cancels this generator, and with it a job that still waits."""
    begin, chunks, sent, found = time.perf_counter(), Chunks(name), "", None
    try:
        async with asyncio.timeout(timeout_s), aclosing(answer_in_pieces(batcher, wanted.query, wanted.max_tokens)) as pieces:
            async for piece in pieces:
                if isinstance(piece, Reply):
                    found = piece
                    break
                if not sent:
                    guard.metrics.first_text_seconds.observe(time.perf_counter() - begin)
                yield _event(chunks.text(piece, first=not sent))
                sent += piece
    except TimeoutError:
        yield _event(error_body(f"no answer within {timeout_s:g} s", "server_error"))
        return
    except CoatError as error:
        yield _event(error_body(str(error), "invalid_request_error", field=error.field))
        return
    except Exception as error:
        yield _event(error_body(f"the answer failed: {type(error).__name__}", "server_error"))
        return
    assert found is not None
    if found.text.startswith(sent) and (rest := found.text[len(sent) :]):
        yield _event(chunks.text(rest, first=not sent))
    yield _event(chunks.last(found))
    if wanted.usage:
        yield _event(chunks.usage(found))
    yield "data: [DONE]\n\n"
    _count(guard, found)


def _count(guard: Guard, reply: Reply) -> None:
    guard.metrics.tokens.labels("prompt").inc(reply.prompt_tokens)
    guard.metrics.tokens.labels("answer").inc(reply.decoded_tokens)


def _event(body: dict[str, Any]) -> str:
    return f"data: {json.dumps(body, ensure_ascii=False)}\n\n"


def _error(status: int, message: str, field: str | None) -> JSONResponse:
    kind = "server_error" if status >= 500 else "invalid_request_error"
    return JSONResponse(error_body(message, kind, field=field), status)
