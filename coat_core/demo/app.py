"""The application: the page, its files, the clips and items of the workspace, and questions."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse, StreamingResponse

from coat_core import logs
from coat_core.corpus.audio import SAMPLE_RATE_HZ, decode, flac_bytes
from coat_core.demo.access import Access
from coat_core.demo.asking import question_events
from coat_core.demo.items import ItemFilter, SavedItems
from coat_core.demo.models import DemoModels
from coat_core.demo.request import read_question
from coat_core.demo.sound import sound_response
from coat_core.demo.turns import Turns
from coat_core.errors import CoatError, EvaluationError
from coat_core.serving.chat import error_body
from coat_core.serving.guard import Guard
from coat_core.serving.limits import Limits

ASK = "/api/ask"
STATIC = Path(__file__).parent / "static"
_TYPES = {".js": "text/javascript", ".css": "text/css"}
_REPORT_STYLE = Path(__file__).parents[1] / "report/report.css"


def make_app(
    models: DemoModels,
    saved: SavedItems,
    limits: Limits,
    *,
    host: str,
    credentials: str | None = None,
    tolerance: float = 0.0,
) -> Access:
    """Return the application of the page.

    Args:
        models: the loaded models.
        saved: the items of the workspace.
        limits: limits of the server; `batch` is not used.
        host: address of the interface.
        credentials: `user:password`, or None.
        tolerance: largest absolute error of a correct numeric answer.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        logs.event("server_stopped", "the page is closed")

    turns = Turns()
    page = _page(models, saved, limits)
    app = FastAPI(title="coat demo", lifespan=lifespan, openapi_url=None)

    @app.get("/")
    async def show_page() -> Response:
        return HTMLResponse(page)

    @app.get("/static/{name}")
    async def static(name: str) -> Response:
        path = _REPORT_STYLE if name == _REPORT_STYLE.name else STATIC / name
        if name not in {_REPORT_STYLE.name, *(found.name for found in STATIC.iterdir())} or path.suffix not in _TYPES:
            return JSONResponse(error_body("there is no such file", "invalid_request_error"), 404)
        return Response(path.read_text(), media_type=_TYPES[path.suffix])

    @app.get("/api/clip")
    async def clip(id: str, request: Request) -> Response:
        if id not in saved.examples:
            return JSONResponse(error_body("no example has this id", "invalid_request_error", field="id"), 404)
        try:
            waveform = await asyncio.to_thread(decode, saved.corpus / saved.examples[id].audio)
        except CoatError as error:
            return _error(error)
        return sound_response(flac_bytes(waveform, SAMPLE_RATE_HZ), request.headers.get("range"))

    @app.get("/api/items")
    async def items(request: Request) -> Response:
        fields = dict(request.query_params)
        number = fields.pop("page", "1")
        try:
            if not number.isdecimal() or set(fields) - set(ItemFilter.__dataclass_fields__):
                raise EvaluationError(
                    "no such filter", field="filter", value=sorted(fields), allowed=[*ItemFilter.__dataclass_fields__, "page"]
                )
            return JSONResponse(await asyncio.to_thread(saved.find, ItemFilter(**fields), int(number)))
        except CoatError as error:
            return _error(error)

    @app.post(ASK)
    async def ask(request: Request) -> Response:
        # A form of another site cannot send this type without the permission of this server.
        if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
            return JSONResponse(error_body("the body must be of type application/json", "invalid_request_error"), 415)
        try:
            body = json.loads(await request.body())
        except (ValueError, RecursionError):
            return _error(EvaluationError("the body is no JSON", field="body"))
        try:
            asked = await asyncio.to_thread(read_question, body, saved.examples, saved.corpus, limits)
        except CoatError as error:
            return _error(error)
        return StreamingResponse(
            _lines(question_events(asked, models, turns, limits.timeout_s, tolerance)), media_type="application/x-ndjson"
        )

    return Access(Guard(app, limits, frozenset({ASK})), host, credentials)


async def _lines(events: AsyncGenerator[dict[str, Any]]) -> AsyncIterator[str]:
    async with aclosing(events) as found:
        async for event in found:
            yield json.dumps(event, ensure_ascii=False) + "\n"


def _error(error: CoatError) -> JSONResponse:
    return JSONResponse(error_body(str(error), "invalid_request_error", field=error.field), 422)


def _page(models: DemoModels, saved: SavedItems, limits: Limits) -> str:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    config = {
        "models": [model.to_json() for model in models.models],
        "samples": saved.samples(limits.audio_s),
        "filters": saved.choices(),
        # Base64 has four characters for three bytes; the rest of the body is short.
        "limits": {"audio_s": limits.audio_s, "file_bytes": int(limits.body_bytes * 0.74), "tokens": limits.tokens},
    }
    return environment.get_template("page.html.j2").render(config=config, tiny=any(model.tiny for model in models.models))
