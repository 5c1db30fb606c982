"""Who may see the pages: a cookie instead of the token, and a word in forms against other sites."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from starlette.requests import HTTPConnection, Request
    from starlette.responses import Response

COOKIE = "neroli-page"
SHEETS = frozenset({"/static/pages.css", "/static/pages.js"})
OPEN = SHEETS | {"/login"}
"""What is shown to whoever has no cookie yet; nothing in it is secret."""
PAGES = frozenset({"/", "/queue", "/guard", "/drift/reset", "/logout"})
HOURS = 12
"""How long a browser stays logged in."""

FORM_TOKEN = secrets.token_urlsafe(24)
"""Of this process, in every form: another site cannot read it, and so cannot send the form."""


def cookie_of(token: str, expires: int) -> str:
    """What a browser keeps in place of the token, which does not follow from it.

    Args:
        token: of the server.
        expires: until when it holds, in seconds since 1970.
    """
    key = hmac.new(token.encode(), f"neroli page {expires}".encode(), hashlib.sha256)
    return f"{expires}.{key.hexdigest()}"


def page_token(request: HTTPConnection, token: str) -> str | None:
    """The token, if the request is for a page and bears a cookie made from it that still holds.

    Programs send the token itself: a cookie opens no other path.
    """
    if not is_page(request.scope["path"]):
        return None
    given = request.cookies.get(COOKIE, "")
    expires, _, _ = given.partition(".")
    if not (expires.isascii() and expires.isdigit() and len(expires) < 12):
        return None
    holds = is_token(given, cookie_of(token, int(expires))) and time.time() < int(expires)
    return token if holds else None


def is_page(path: str) -> bool:
    """Whether a path is of the pages, and not of what programs ask for."""
    return path in PAGES or path.startswith("/records/")


def log_in(request: Request, response: Response, token: str) -> None:
    """Give the browser a cookie that no script reads and no other site sends."""
    response.set_cookie(
        COOKIE,
        cookie_of(token, int(time.time()) + 3600 * HOURS),
        max_age=3600 * HOURS,
        httponly=True,
        samesite="strict",
        secure=request.url.scheme == "https",
    )


def is_own_form(given: str) -> bool:
    """Whether a form is one of this process."""
    return is_token(given, FORM_TOKEN)


def is_token(given: str, wanted: str) -> bool:
    """Whether two secrets are one, in a time that says nothing of where they differ."""
    return hmac.compare_digest(given.encode(), wanted.encode())
