"""The review pages: an image dropped in, the queue of what was flagged, its records, the guard.

Pages are made on the server and work without scripts; the one script only saves reloading. What is
uploaded is shown from the answer itself and not written to the disk, unless the settings keep it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

from fastapi import APIRouter, Request, Response
from fastapi.responses import RedirectResponse
from fastapi.routing import APIRoute
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from neroli.errors import InvalidInput, RecordsError, UnknownRecord
from neroli.serve import sessions
from neroli.serve.page_facts import ImageView, Place, explained
from neroli.serve.queue_page import QueuePage
from neroli.serve.security import Rates
from neroli.serve.site import Site, problem
from neroli.serve.state import RECORDS_AGAIN, State
from neroli.serve.uploads import Refused, Upload, contents_of

if TYPE_CHECKING:
    from neroli.explain.explanation import Explanation
    from neroli.serve.scored import Scored

LOGINS_PER_MINUTE = 10
"""Of one client address, right or wrong."""

_log = logging.getLogger(__name__)


def pages(state: State) -> APIRouter:
    """The routes of the pages, and of their style sheet and script.

    Args:
        state: of the server; while it is still loading, pages say so.
    """
    router = APIRouter(route_class=_PageRoute, include_in_schema=False)
    site = Site(state)
    logins = Rates(LOGINS_PER_MINUTE, "attempts to log in")

    @router.get("/")
    def review() -> Response:
        return site.page("review.html", site.home(), here="/")

    @router.post("/")
    async def drop(request: Request) -> Response:
        body = await request.body()
        kind = request.headers.get("content-type", "")
        parts = await state.briefly(contents_of, body, kind, state.settings.limits)
        _check_form(parts[0].decode(errors="replace"))
        if len(parts) != 2 or not parts[1]:
            raise Refused(422, "Choose one image first.")
        request.state.images = 1
        async with state.received(parts[1:]) as (upload,):
            if isinstance(upload, Refused):
                raise upload
            version = state.engine.guard_version
            known = await state.aside(state.records.of_content, upload.content, version)
            shown = known or await _scored(state, upload, request)
            why = await _or_refused(state.engine.explain(upload))
        facts = {"result": True, "verdict": ImageView.of(shown), "again": known is not None}
        facts["place"] = Place.of(shown, state.engine.calibration, version)
        return await run_in_threadpool(
            lambda: site.page(
                "review.html", site.home() | facts | {"back": ""} | _why(why), here="/"
            )
        )

    @router.get("/queue")
    def queue(request: Request) -> Response:
        return site.page("queue.html", site.queue(QueuePage.of(request.query_params)), "/queue")

    @router.get("/records/{identity}")
    def record(identity: str) -> Response:
        return site.page("record.html", site.record(identity), "/queue")

    @router.get("/records/{identity}/explanation")
    async def explanation(identity: str) -> Response:
        image = await run_in_threadpool(state.records.picture, identity, "image")
        if image is None:
            raise Refused(404, "The image was not kept, so that it cannot be explained again.")
        async with state.received([image]) as (upload,):
            if isinstance(upload, Refused):
                raise upload
            why = await _or_refused(state.engine.explain(upload))
        return await run_in_threadpool(
            lambda: site.page("record.html", site.record(identity) | _why(why), "/queue")
        )

    @router.post("/records/{identity}/decision")
    async def decide(request: Request, identity: str) -> Response:
        form = await _form(request)
        decision, note = form.get("decision") or None, form.get("note", "")
        back = form.get("back", "")
        shown = QueuePage.at(back)
        record = await state.aside(state.records.decide, identity, decision, note)
        if not form.get("part"):
            where = shown.address() if back else f"/records/{record.id}"
            return RedirectResponse(where, 303)
        facts = {"asked": ImageView.of(record), "back": back}
        return await run_in_threadpool(
            lambda: site.page(
                "decided.html", facts | {"summary": site.summary(shown.guard)}, "/queue"
            )
        )

    @router.get("/guard")
    def guard() -> Response:
        return site.page("guard.html", site.guard(), "/guard")

    @router.post("/drift/reset")
    async def reset_drift(request: Request) -> Response:
        await _form(request)
        await state.aside(state.reset_drift)
        return RedirectResponse("/guard#drift", 303)

    @router.get("/login")
    def login() -> Response:
        return site.login()

    @router.post("/login")
    async def log_in(request: Request) -> Response:
        form = await _form(request)
        logins.count(request.client.host if request.client else "")
        token = state.settings.token
        if token is not None and not sessions.is_token(form.get("bearer", ""), token):
            return site.login("That is not the token of this server.", 403)
        answer = RedirectResponse("/", 303)
        if token is not None:
            sessions.log_in(request, answer, token)
        return answer

    @router.post("/logout")
    async def log_out(request: Request) -> Response:
        await _form(request)
        answer = RedirectResponse("/login", 303)
        answer.delete_cookie(sessions.COOKIE)
        return answer

    @router.get("/static/pages.css")
    def style() -> Response:
        return Response(_style(), media_type="text/css")

    @router.get("/static/pages.js")
    def script() -> Response:
        content = files("neroli.serve").joinpath("static", "pages.js").read_text("utf-8")
        return Response(content, media_type="text/javascript")

    return router


class _PageRoute(APIRoute):
    """A route whose refusals are pages too, and of which the head alone may be asked for."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        if "GET" in (methods := self.methods or set()):
            methods.add("HEAD")

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        answer = super().get_route_handler()

        async def answered(request: Request) -> Response:
            try:
                return await answer(request)
            except Refused as refused:
                return problem(refused.status, str(refused), refused.retry_after)
            except UnknownRecord as error:
                return problem(404, str(error))
            except InvalidInput as error:
                return problem(400, str(error))
            except RecordsError:  # its message names files of the server
                _log.exception("The records cannot be used.")
                reason = "The records cannot be used now; the server's log says why."
                return problem(503, reason, RECORDS_AGAIN)
            except HTTPException as error:
                return problem(error.status_code, str(error.detail))
            except Exception:
                _log.exception("Request %s failed.", request.state.request)
                return problem(500, "The server failed; its log says why.")

        return answered


async def _scored(state: State, upload: Upload, request: Request) -> Scored:
    """What the guard says of an image, which is recorded.

    Raises:
        Refused: as ``State.score``.
    """
    (scored,) = await state.score([upload], request.state.request)
    assert not isinstance(scored, Refused), "a lone refusal is raised"
    return scored


def _why(why: Explanation | Refused) -> dict[str, Any]:
    """An explanation, or why there is none, as templates take it."""
    if isinstance(why, Refused):
        return {"explained": None, "refused": f"The verdict stands, but no explanation: {why}"}
    return {"explained": explained(why), "refused": ""}


async def _or_refused(why: Coroutine[Any, Any, Explanation]) -> Explanation | Refused:
    """An explanation, or why there is none: a verdict that is recorded is shown all the same."""
    try:
        return await why
    except Refused as refused:
        return refused
    except Exception:
        _log.exception("An explanation failed.")
        return Refused(500, "it failed; the server's log says why.")


async def _form(request: Request) -> dict[str, str]:
    """The values of a form of ours.

    Raises:
        Refused: 400 if it is not one.
    """
    body = (await request.body()).decode(errors="replace")
    try:
        form = dict(parse_qsl(body, keep_blank_values=True, max_num_fields=20))
    except ValueError:
        raise Refused(400, "The form has too many fields.") from None
    _check_form(form.get("token", ""))
    return form


def _check_form(token: str) -> None:
    if not sessions.is_own_form(token):
        raise Refused(400, "This page is from before the server was started anew: reload it.")


@cache
def _style() -> str:
    """The style sheet: that of all pages, that of explanations, and that of these."""
    of_explanations = files("neroli.explain").joinpath("templates")
    own = files("neroli.serve").joinpath("static", "pages.css")
    sheets = [of_explanations.joinpath(name) for name in ("base.css", "report.css")]
    return "\n".join(sheet.read_text("utf-8") for sheet in (*sheets, own))
