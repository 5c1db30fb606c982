"""Who may see the pages: the token asked for once, and the cookie that stands for it."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from neroli import Guard
from neroli.serve.sessions import COOKIE, FORM_TOKEN, cookie_of
from neroli.serve.settings import Settings
from serving import serving


def test_the_pages_ask_for_the_token_once(examples_guard: Guard, tmp_path: Path) -> None:
    token = "correct horse battery staple"
    with (
        serving(tmp_path, Settings(token=token), guard=examples_guard) as server,
        httpx.Client(base_url=server.address) as client,
    ):
        for path in ("/", "/queue", "/guard", f"/records/{'0' * 32}"):
            assert client.get(path).headers["location"] == "/login"
        wrong = client.post("/login", data={"token": FORM_TOKEN, "bearer": "guess"})
        assert wrong.status_code == 403 and COOKIE not in client.cookies
        right = client.post("/login", data={"token": FORM_TOKEN, "bearer": token})
        given = right.headers["set-cookie"]
        assert "HttpOnly" in given and "SameSite=strict" in given and token not in given
        assert client.get("/queue").status_code == 200
        assert client.post("/v1/score", content=b"").status_code == 401  # programs send the token
        client.post("/logout", data={"token": FORM_TOKEN})
        assert client.get("/queue").headers["location"] == "/login"


@pytest.mark.parametrize(
    "cookie",
    [
        cookie_of("secret", 1_000),
        cookie_of("other", 9_999_999_999),
        "9999999999.",
        "",
        "x.y",
        "٣.a",
    ],
)
def test_cookies_that_are_old_or_made_up_open_nothing(
    examples_guard: Guard, tmp_path: Path, cookie: str
) -> None:
    with serving(tmp_path, Settings(token="secret"), guard=examples_guard) as server:
        sent = {"Cookie": f"{COOKIE}={cookie}".encode()}
        assert httpx.get(f"{server.address}/queue", headers=sent).status_code == 303


def test_the_token_cannot_be_tried_without_end(examples_guard: Guard, tmp_path: Path) -> None:
    token = "correct horse battery staple"
    with (
        serving(tmp_path, Settings(token=token), guard=examples_guard) as server,
        httpx.Client(base_url=server.address) as client,
    ):
        form = {"token": FORM_TOKEN, "bearer": "guess"}
        statuses = [client.post("/login", data=form).status_code for _ in range(11)]
        assert statuses == [403] * 10 + [429]
        answer = client.post("/login", data=form | {"bearer": token})
        assert answer.status_code == 429 and 1 <= int(answer.headers["retry-after"]) <= 6
        assert "More than 10 attempts to log in a minute" in answer.text
        assert client.get("/login").status_code == 200
