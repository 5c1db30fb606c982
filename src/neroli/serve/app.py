"""The application: gate, API, protocol and pages around one guard that is loaded meanwhile."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from neroli import __version__
from neroli.serve.answers import refusal
from neroli.serve.api import api
from neroli.serve.inference_protocol import inference_protocol
from neroli.serve.pages import pages
from neroli.serve.security import Gate
from neroli.serve.settings import Settings
from neroli.serve.state import State
from neroli.serve.uploads import Refused

_log = logging.getLogger(__name__)


def create_app(settings: Settings, load: Callable[[State], None]) -> FastAPI:
    """The application.

    Args:
        settings: how the server is run.
        load: opens the state it is given (``State.open``), in a thread, once the server listens;
            if it raises, the server stays alive and is never ready.
    """
    state = State.loading(settings)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        loading = asyncio.create_task(asyncio.to_thread(_loaded, state, load))
        try:
            yield
        finally:
            await loading
            await state.close()

    app = FastAPI(
        title="neroli",
        version=__version__,
        description="Says of images whether they lie outside what a classifier was trained on.",
        lifespan=lifespan,
        docs_url=None,  # it would load scripts from elsewhere
        redoc_url=None,
    )
    app.include_router(api(state))
    app.include_router(inference_protocol(state))
    app.include_router(pages(state))
    app.add_middleware(Gate, settings=settings, metrics=state.metrics)
    for kind in (Refused, HTTPException, RequestValidationError):
        app.add_exception_handler(kind, _refused)
    return app


def _loaded(state: State, load: Callable[[State], None]) -> None:
    try:
        load(state)
    except Exception as error:
        state.failed = True
        _log.error("The guard could not be loaded: %s", error, exc_info=error)


async def _refused(request: Request, error: Exception) -> Response:
    """The answer to what a route, or the router, refuses."""
    headers = {}
    if isinstance(error, HTTPException):  # 404, 405
        headers = dict(error.headers or {})
        error = Refused(error.status_code, f"{error.detail}.")
    elif not isinstance(error, Refused):
        error = Refused(422, "The request is not as the API describes it (/openapi.json).")
    response = refusal(request.url.path, error, request.state.request)
    response.headers.update(headers)
    return response
