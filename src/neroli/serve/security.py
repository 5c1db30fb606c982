"""The gate before the application: who may ask, how much, how often; and what is logged of it."""

from __future__ import annotations

import asyncio
import logging
import re
import time
import uuid
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from ipaddress import ip_address
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import HTTPConnection
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from neroli.serve import sessions
from neroli.serve.answers import refusal
from neroli.serve.metrics import Metrics
from neroli.serve.settings import LOOPBACK, Settings
from neroli.serve.site import problem
from neroli.serve.uploads import Budget, Refused

OPEN = frozenset({"/v2/health/live", "/v2/health/ready"})
"""Asked by machines that watch over the server, without a token and as often as they like."""

SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
        "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}
_UPLOAD = re.compile(r"/|/v1/(score|explain)|/v2/models/.*/infer")
"""Where images are sent; elsewhere bodies are small."""
_HOST = re.compile(r"[\w.:\[\]-]*", re.ASCII)
SECONDS_TO_LINGER = 2.0
_ADDRESSES_REMEMBERED = 10_000

log = logging.getLogger("neroli.serve.requests")


class Rates:
    """Requests of every client address, so many a minute with as many at once.

    Args:
        per_minute: how many; None does not count.
        noun: what they are called.
        now: the time in seconds.
    """

    def __init__(
        self,
        per_minute: int | None,
        noun: str = "requests",
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.per_minute = per_minute
        self._noun = noun
        self._now = now
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def count(self, address: str) -> None:
        """Count a request.

        Raises:
            Refused: 429 if it is one too many.
        """
        if self.per_minute is None:
            return
        most, now = float(self.per_minute), self._now()
        left, since = self._left.pop(address, (most, now))
        left = min(most, left + (now - since) * most / 60)
        allowed = left >= 1
        self._left[address] = (left - allowed, now)
        if len(self._left) > _ADDRESSES_REMEMBERED:
            self._left.popitem(last=False)
        if not allowed:
            raise Refused(
                429,
                f"More than {self.per_minute} {self._noun} a minute came from this address.",
                (1 - left) * 60 / most,
            )


class Gate:
    """Lets requests through to the application that may be answered, with their whole body.

    Args:
        app: the application.
        settings: how the server is run.
        metrics: that count requests.
    """

    def __init__(self, app: ASGIApp, settings: Settings, metrics: Metrics) -> None:
        self.app = app
        self.settings = settings
        self.metrics = metrics
        self._rates = Rates(settings.limits.requests_per_minute)
        self._bytes = Budget(settings.limits.bytes_at_once, "bytes")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        elif scope["type"] == "http":
            await self._answer(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = time.perf_counter()
        request = uuid.uuid4().hex
        scope.setdefault("state", {})["request"] = request
        status = 0

        async def sent(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
                headers["X-Request-ID"] = request
                if status == 401:
                    headers["WWW-Authenticate"] = "Bearer"
            await send(message)

        try:
            self._check(scope)
            if scope["method"] in SAFE:
                await self.app(scope, receive, sent)
            else:
                await self._with_body(scope, receive, sent)
        except Refused as refused:
            await _refuse(refused, scope, receive, sent)
        except Exception:
            logging.getLogger(__name__).exception("Request %s failed.", request)
            if status == 0:
                failure = Refused(500, "The server failed; its log says why.")
                await _answer_to(failure, scope)(scope, receive, sent)
        finally:
            seconds = time.perf_counter() - started
            template = getattr(scope.get("route"), "path", "-")
            self.metrics.answered(template, status, seconds)
            images = scope["state"].get("images", 0)
            line = "request=%s path=%s status=%d images=%d ms=%.1f"
            log.info(line, request, template, status, images, 1000 * seconds)

    def _check(self, scope: Scope) -> None:
        """Raise Refused if the request may not be answered, before its body is read."""
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        own = self.settings.host not in LOOPBACK or self._is_own(host)
        if not own or not _HOST.fullmatch(host):  # a slash there would change what the path is
            raise Refused(421, "The server does not answer to this host name.")
        if scope["path"] in OPEN:
            return
        if scope["path"] not in sessions.SHEETS:  # which come with every page
            client = scope.get("client")
            self._rates.count(client[0] if client else "")
        if scope["path"] not in sessions.OPEN:
            self._check_token(scope, headers)
        if scope["method"] not in SAFE:
            self._check_origin(headers, host)

    def _is_own(self, host: str) -> bool:
        """Whether a Host header names this machine; a web page elsewhere may point others here."""
        name = _name_of(host)
        if name == "localhost" or name in self.settings.hosts:
            return True
        try:
            return ip_address(name).is_loopback
        except ValueError:
            return False

    def _check_token(self, scope: Scope, headers: Headers) -> None:
        """Raise Refused without the token, or a cookie that stands for it on the pages."""
        token = self.settings.token
        if token is None or sessions.page_token(HTTPConnection(scope), token):
            return
        scheme, _, given = headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not sessions.is_token(given.strip(), token):
            raise Refused(401, "Send the server's token: 'Authorization: Bearer TOKEN'.")

    def _check_origin(self, headers: Headers, host: str) -> None:
        """Raise Refused if a browser sends this for a page of another site."""
        origin = headers.get("origin")
        if origin is None:
            own = headers.get("sec-fetch-site", "none") in ("same-origin", "none")
        else:
            scheme, _, sender = origin.partition("://")
            own = sender == host or _name_of(sender) in self.settings.hosts
            own = own and scheme in ("http", "https")
        if not own:
            raise Refused(403, "Pages of other sites may not send anything here.")

    async def _with_body(self, scope: Scope, receive: Receive, send: Send) -> None:
        limits = self.settings.limits
        upload = bool(_UPLOAD.fullmatch(scope["path"]))
        most = limits.upload_bytes if upload else limits.form_bytes
        held = self._bytes if upload else None  # whoever may not send images holds none of it
        headers = Headers(scope=scope)
        if "content-length" in headers and "transfer-encoding" in headers:
            raise Refused(400, "The request states its length in two ways.")
        if int(headers.get("content-length", "0")) > most:
            raise _too_large(most)
        parts: list[bytes] = []
        try:
            try:
                async with asyncio.timeout(limits.upload_seconds):
                    whole = await _read(receive, parts, most, held)
            except TimeoutError:
                raise Refused(
                    408, f"The body took longer than {limits.upload_seconds:g} seconds."
                ) from None
            if whole:
                await self.app(scope, _replayed(b"".join(parts), receive), send)
        finally:
            if held is not None:
                held.give(sum(map(len, parts)))


async def _read(receive: Receive, parts: list[bytes], most: int, held: Budget | None) -> bool:
    """Read a body into parts, all within the limits; whether the client stayed to its end."""
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return False
        part = message.get("body", b"")
        size += len(part)
        if size > most:
            raise _too_large(most)
        if held is not None:
            held.take(len(part))
        parts.append(part)
        if not message.get("more_body", False):
            return True


def _answer_to(refused: Refused, scope: Scope) -> Response:
    """The refusal; a browser that asks for a page without the token is led to the login."""
    path = scope["path"]
    if refused.status == 401 and scope["method"] == "GET" and sessions.is_page(path):
        return RedirectResponse("/login", 303)
    if sessions.is_page(path) or path == "/login":
        return problem(refused.status, str(refused), refused.retry_after)
    return refusal(path, refused, scope["state"]["request"])


async def _refuse(refused: Refused, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer a request whose body was not read, and close the connection.

    A connection closed while the client still sends is reset, and the answer may be lost. So the
    answer is left unended for a while, in which what comes is thrown away.
    """
    response = _answer_to(refused, scope)
    if scope["method"] in SAFE:
        await response(scope, receive, send)
        return
    response.headers["Connection"] = "close"

    async def unended(message: Message) -> None:
        if message["type"] == "http.response.body":
            message = {**message, "more_body": True}
        await send(message)

    await response(scope, receive, unended)
    with suppress(TimeoutError):
        async with asyncio.timeout(SECONDS_TO_LINGER):
            while (await receive()).get("more_body", False):
                pass
    await send({"type": "http.response.body", "body": b""})


def _too_large(most: int) -> Refused:
    return Refused(413, f"The body is larger than the {most:,} bytes allowed.")


def _replayed(body: bytes, receive: Receive) -> Receive:
    """What the application receives: the body at once, and then what follows it."""
    first = iter([{"type": "http.request", "body": body, "more_body": False}])

    async def again() -> Message:
        for message in first:
            return message
        return await receive()

    return again


def _name_of(host: str) -> str:
    """The name or address in a Host header, without the port; empty if it is none."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""
