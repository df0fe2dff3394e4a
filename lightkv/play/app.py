"""The HTTP side: a page, what it asks for as JSON, one model call at a time."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Awaitable, Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse

from lightkv.core.errors import ConfigError, LightKVError
from lightkv.play.asked import Asked
from lightkv.play.compare import compare
from lightkv.play.offers import Offers
from lightkv.play.page import HEADERS, page
from lightkv.play.uploads import BODY, too_large

T = TypeVar("T")
MOST_WAITING = 8
"""Requests that have not been answered yet; the next one is told to come again."""


class Turns:
    """One thread in which the model works, first come, first served."""

    def __init__(self, most: int = MOST_WAITING) -> None:
        self._worker = ThreadPoolExecutor(1, "lightkv-play")
        self._most, self._places = most, 0

    async def take(self, work: Callable[[], T]) -> T:
        """What `work` gives, once it was its turn.

        Raises:
            BusyError: too many wait already.
        """
        if self._places >= self._most:
            raise BusyError(
                f"{self._places} comparisons are waiting already", remedy="try again in a moment"
            )
        self._places += 1
        try:
            return await asyncio.wrap_future(self._worker.submit(work))
        finally:
            self._places -= 1


class BusyError(LightKVError):
    """More requests than wait their turn."""


class _LargeError(ConfigError):
    """A request of too many bytes."""


def build_app(offers: Offers, hosts: Collection[str] = ()) -> FastAPI:
    """The playground as an ASGI app.

    Args:
        offers: models and strategies. The first model is loaded here.
        hosts: names under which the page may be asked for, which keeps other sites from reaching it
            under a name of theirs; any name if empty.

    Raises:
        LightKVError: the first model cannot be loaded.
    """
    # Without the pages of FastAPI's own documentation, which load scripts from elsewhere.
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    turns, first = Turns(), offers.models[0]
    start = page(offers.models, offers.strategies(first))

    @app.middleware("http")
    async def guard(request: Request, answer: Callable[[Request], Awaitable[Response]]) -> Response:
        if hosts and _host(request) not in hosts:
            response: Response = _refused(
                ConfigError("not a name of this server", field="host"), 400
            )
        else:
            response = await answer(request)
        response.headers.update(HEADERS)
        return response

    @app.exception_handler(LightKVError)
    async def refused(_: Request, error: Exception) -> Response:
        status = {BusyError: 503, _LargeError: 413}.get(type(error), 422)
        return _refused(error, status)

    @app.exception_handler(RequestValidationError)
    async def unreadable(_: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        found = error.errors()[0]
        return _refused(ConfigError(str(found["msg"]), field=str(found["loc"][-1])), 422)

    @app.get("/")
    async def root() -> Response:
        return HTMLResponse(start)

    @app.get("/strategies")
    async def strategies(model: str) -> list[dict[str, Any]]:
        return await turns.take(lambda: offers.strategies(model))

    @app.get("/scene")
    async def scene(model: str, number: int) -> dict[str, Any]:
        picture, questions = await asyncio.to_thread(offers.scene, model, number)
        encoded = base64.b64encode(picture).decode("ascii")
        return {"number": number, "picture": encoded, "questions": questions}

    @app.post("/compare")
    async def ask(request: Request) -> dict[str, Any]:
        asked = Asked(**await _json(request))
        asked.check()  # before it waits
        return await turns.take(lambda: compare(offers, asked))

    return app


def _host(request: Request) -> str:
    """The name that the browser asked for, without its port."""
    name = request.headers.get("host", "").lower()
    return name[: name.rfind("]") + 1] if name.startswith("[") else name.partition(":")[0]


async def _json(request: Request) -> dict[str, Any]:
    """The body of a request, no more of which is read than may be.

    Only the media type of JSON is taken: another site's page cannot send that without asking first,
    and nobody answers it.

    Raises:
        ConfigError: another media type, not a JSON object, or too large.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise ConfigError("requests are JSON", field="content-type", value=kind)
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > BODY:
            what = too_large()
            raise _LargeError(what.message, field=what.field, remedy=what.remedy)
    try:
        found = json.loads(bytes(body))
        if not isinstance(found, dict):
            raise ValueError("not an object")
    except (ValueError, RecursionError) as error:
        raise ConfigError("the request is not a JSON object", field="body") from error
    return found


def _refused(error: Exception, status: int) -> JSONResponse:
    """An error as one line; a field that is named after an option loses its dashes."""
    assert isinstance(error, LightKVError)
    field = error.field.lstrip("-") if error.field else None
    error.field = field
    return JSONResponse({"error": " ".join(str(error).split()), "field": field}, status)
