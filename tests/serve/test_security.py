"""Who is answered, how much may be sent, and how fast; over HTTP and over bare sockets."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from neroli.errors import InvalidInput
from neroli.serve import connections, security
from neroli.serve.api import api
from neroli.serve.inference_protocol import inference_protocol
from neroli.serve.pages import pages
from neroli.serve.security import HEADERS, Rates
from neroli.serve.settings import Limits, Settings
from neroli.serve.state import State
from neroli.serve.uploads import Refused
from serving import Client, as_json, colour_pictures, encoded, serving

TOKEN = "correct-horse-battery-staple"


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    limits = Limits(upload_bytes=50_000, bytes_at_once=60_000, upload_seconds=1.0)
    settings = Settings(limits=limits, hosts=("guard.example",))
    with serving(tmp_path_factory.mktemp("server"), settings) as client:
        yield client


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    settings = Settings(token=TOKEN)
    with serving(tmp_path_factory.mktemp("server"), settings) as client:
        yield client


def image() -> dict[str, list[str]]:
    return as_json(encoded(colour_pictures(1)[0]))


@pytest.fixture
def no_lingering(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server does not wait for the rest of a body that it refuses, which never comes."""
    monkeypatch.setattr(security, "SECONDS_TO_LINGER", 0.05)


def bare(client: Client, request: bytes, *, more: bytes = b"") -> bytes:
    """What comes back until the server closes the connection."""
    url = client.base_url
    with socket.create_connection((url.host, url.port or 80), timeout=20) as connection:
        connection.sendall(request)
        answer = b""
        while part := connection.recv(65536):
            answer += part
            if more:
                connection.sendall(more)
                more = b""
    return answer


def test_an_address_that_others_reach_needs_a_token() -> None:
    with pytest.raises(InvalidInput, match="can be reached from outside: give a token"):
        Settings(host="0.0.0.0")
    assert TOKEN not in repr(Settings(host="0.0.0.0", token=TOKEN))


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": f"Bearer {TOKEN}x"},
        {"Authorization": "Bearer"},
        {"Authorization": f"Basic {TOKEN}"},
        {"Authorization": TOKEN},
        {"Authorization": b"Bearer \xff\xfe"},
    ],
)
def test_without_the_token_nothing_is_answered(
    guarded: Client, headers: dict[str, str | bytes]
) -> None:
    asked = [("POST", "/v1/score"), ("GET", "/metrics"), ("GET", "/v2"), ("GET", "/openapi.json")]
    for method, path in [*asked, ("POST", "/v2/models/guard/infer"), ("GET", "/nothing")]:
        answer = guarded.request(method, path, headers=headers, json=image())  # type: ignore[arg-type]
        assert answer.status_code == 401, path
        assert answer.headers["www-authenticate"] == "Bearer"
    page = guarded.get("/queue", headers=headers)  # type: ignore[arg-type]
    assert (page.status_code, page.headers["location"]) == (303, "/login")


def test_every_route_asks_for_the_token_but_those_that_hold_nothing(guarded: Client) -> None:
    state = State.loading(Settings(token=TOKEN))
    routes = [route for part in (api, inference_protocol, pages) for route in part(state).routes]
    open_paths = set()
    for path in {getattr(route, "path", "") for route in routes}:
        address = path.format(name="guard", version="1", identity="1" * 32)
        for method in ("GET", "POST"):
            answer = guarded.request(method, address)
            led_to_login = answer.headers.get("location") == "/login"
            if answer.status_code != 401 and not led_to_login:
                open_paths.add(path)
    assert open_paths == {
        "/v2/health/live",
        "/v2/health/ready",
        "/login",
        "/static/pages.css",
        "/static/pages.js",
    }


def test_the_token_opens(guarded: Client) -> None:
    headers = {"Authorization": f"Bearer {TOKEN}"}
    assert guarded.post("/v1/score", headers=headers, json=image()).status_code == 200
    assert guarded.get("/metrics", headers=headers).status_code == 200


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost:1", 200),
        ("127.0.0.1", 200),
        ("[::1]:8080", 200),
        ("guard.example", 200),
        ("attacker.example", 421),
        ("127.0.0.1.attacker.example", 421),
        ("10.0.0.1", 421),
        ("[", 421),
        ("localhost/queue?", 421),
    ],
)
def test_on_loopback_only_names_of_this_machine_are_answered(
    client: Client, host: str, status: int
) -> None:
    assert client.get("/v2/health/live", headers={"Host": host}).status_code == status


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Origin": "http://attacker.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "ftp://guard.example"}, 403),
        ({"Origin": "guard.example"}, 403),
        ({"Origin": "http://["}, 403),
        ({"Origin": "http://127.0.0.1:1"}, 403),  # another server of this machine
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Sec-Fetch-Site": "same-origin"}, 200),
        ({"Origin": "https://guard.example"}, 200),
        ({}, 200),
    ],
)
def test_pages_of_other_sites_may_send_nothing(
    client: Client, headers: dict[str, str], status: int
) -> None:
    assert client.post("/v1/score", json=image(), headers=headers).status_code == status
    own = str(client.base_url).rstrip("/")
    assert client.post("/v1/score", json=image(), headers={"Origin": own}).status_code == 200


@pytest.mark.parametrize("path", ["/v1/score", "/nothing", "/v2/health/live", "/openapi.json", "/"])
def test_every_answer_bears_the_headers(client: Client, path: str) -> None:
    answer = client.get(path)
    for name in HEADERS:
        assert name in answer.headers
    assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
    assert "access-control-allow-origin" not in answer.headers
    assert "server" not in answer.headers


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/nothing", 404), ("GET", "/v1/score", 405), ("PUT", "/metrics", 405)],
)
def test_what_there_is_not_has_the_shape_of_an_error(
    client: Client, method: str, path: str, status: int
) -> None:
    answer = client.request(method, path)
    assert answer.status_code == status
    error = answer.json()["error"]
    assert error["status"] == status and error["request"] == answer.headers["x-request-id"]


def test_a_body_too_large_by_its_own_words_is_not_read(client: Client, no_lingering: None) -> None:
    head = b"POST /v1/score HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    answer = bare(client, head + b"Content-Length: 50001\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 413 ") and b"connection: close" in answer.lower()
    assert b"larger than the 50,000 bytes allowed" in answer


def test_a_body_too_large_is_cut_off_without_a_length(client: Client) -> None:
    def chunks() -> Iterator[bytes]:
        for _ in range(200):
            yield b"x" * 1000

    answer = client.post(
        "/v1/score", content=chunks(), headers={"Content-Type": "application/json"}
    )
    assert answer.status_code == 413 and answer.headers["connection"] == "close"


def test_a_length_stated_in_two_ways_is_refused_and_the_connection_closed(client: Client) -> None:
    head = b"POST /v1/score HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\n"
    body = b"0\r\n\r\nGET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n"
    answer = bare(client, head + b"Transfer-Encoding: chunked\r\n\r\n" + body)
    assert answer.startswith(b"HTTP/1.1 400 ") and answer.count(b"HTTP/1.1 ") == 1


def test_what_the_gate_refuses_of_a_page_is_a_page(client: Client) -> None:
    other = {"Origin": "http://attacker.example"}
    for path in ("/", "/login", f"/records/{0:032x}/decision"):
        answer = client.post(path, headers=other)
        assert answer.status_code == 403 and 'role="alert"' in answer.text


PATHS_OF_FORMS = pytest.mark.parametrize(
    "path", ["/login", "/logout", f"/records/{0:032x}/decision", "/nothing"]
)


@PATHS_OF_FORMS
def test_forms_are_small_by_their_length(client: Client, no_lingering: None, path: str) -> None:
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 32769\r\n\r\n"
    assert bare(client, head.encode()).startswith(b"HTTP/1.1 413 ")


@PATHS_OF_FORMS
def test_forms_are_small_without_a_length(client: Client, path: str) -> None:
    def chunks() -> Iterator[bytes]:
        for _ in range(40):
            yield b"x=" + b"1" * 998

    answer = client.post(path, content=chunks())
    assert answer.status_code == 413 and "larger than the 32,768 bytes allowed" in answer.text


def test_who_has_no_token_takes_no_room_from_images(tmp_path: Path) -> None:
    limits = Limits(upload_bytes=50_000, bytes_at_once=60_000)
    with serving(tmp_path, Settings(token=TOKEN, limits=limits)) as guarded, ExitStack() as slow:
        url = guarded.base_url
        for path in ("/login", "/login", "/login", "/v1/score", "/v1/score"):
            head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 32000\r\n\r\n"
            address = (url.host, url.port or 80)
            stranger = slow.enter_context(socket.create_connection(address, timeout=20))
            stranger.sendall(head.encode() + b"x" * 31_000)
        headers = {"Authorization": f"Bearer {TOKEN}"}
        large = as_json(encoded(colour_pictures(1)[0]) + bytes(30_000))
        assert guarded.post("/v1/score", headers=headers, json=large).status_code == 200


def test_a_slow_body_is_cut_off(client: Client, no_lingering: None) -> None:
    head = b"POST /v1/score HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{"
    answer = bare(client, head)
    assert answer.startswith(b"HTTP/1.1 408 ") and b"longer than 1 seconds" in answer


ALIVE = b"GET /v2/health/live HTTP/1.1\r\nHost: localhost\r\n"


@pytest.mark.parametrize("begun", [b"", ALIVE[:20], ALIVE])
def test_headers_that_are_never_finished_are_not_waited_for(
    client: Client, monkeypatch: pytest.MonkeyPatch, begun: bytes
) -> None:
    monkeypatch.setattr(connections, "SECONDS_FOR_HEADERS", 0.3)
    assert bare(client, begun) == b""
    second = bare(client, ALIVE + b"\r\n", more=ALIVE)
    assert second.count(b"HTTP/1.1 ") == 1 and second.startswith(b"HTTP/1.1 200 ")


def test_headers_that_come_letter_by_letter_are_not_waited_for(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "SECONDS_FOR_HEADERS", 0.3)
    url = client.base_url
    with socket.create_connection((url.host, url.port or 80), timeout=20) as connection:
        connection.sendall(ALIVE + b"X: ")
        with pytest.raises(OSError, match="reset|pipe"):  # noqa: PT012
            for _ in range(400):
                connection.sendall(b"x")
                time.sleep(0.02)


def test_what_takes_longer_than_headers_may_is_answered(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "SECONDS_FOR_HEADERS", 0.2)

    def slowly() -> Iterator[bytes]:
        body = json.dumps(image()).encode()
        yield body[:10]
        time.sleep(0.5)
        yield body[10:]

    kind = {"Content-Type": "application/json"}
    assert client.post("/v1/score", content=slowly(), headers=kind).status_code == 200


def test_bodies_of_all_clients_together_are_bounded(tmp_path: Path) -> None:
    limits = Limits(upload_bytes=50_000, bytes_at_once=60_000, upload_seconds=120)
    head = b"POST /v1/score HTTP/1.1\r\nHost: localhost\r\nContent-Length: 50000\r\n\r\n"
    kind = {"Content-Type": "application/json"}
    with serving(tmp_path, Settings(limits=limits)) as client:
        url = client.base_url
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            with socket.create_connection((url.host, url.port or 80), timeout=20) as slow:
                slow.sendall(head + b"x" * 49_000)
                time.sleep(0.5)  # for these to come first: what comes second is refused
                answer = client.post("/v1/score", content=b"x" * 40_000, headers=kind)
            if answer.status_code == 503:
                break
        assert answer.status_code == 503 and "retry-after" in answer.headers


def test_a_client_asks_no_more_often_than_allowed(tmp_path: Path) -> None:
    limits = Limits(requests_per_minute=3)
    with serving(tmp_path, Settings(limits=limits)) as client:
        answers = [client.get("/metrics") for _ in range(4)]
        assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
        assert 1 <= int(answers[-1].headers["retry-after"]) <= 20
        for path in ("/v2/health/live", "/static/pages.css"):  # which are not counted
            assert client.get(path).status_code == 200


def test_rates_are_counted_apart_for_every_address_and_recover() -> None:
    now = [0.0]
    rates = Rates(2, now=lambda: now[0])
    for address in ("a", "a", "b", "b"):
        rates.count(address)
    with pytest.raises(Refused) as refused:
        rates.count("a")
    assert refused.value.status == 429 and refused.value.retry_after == pytest.approx(30)
    now[0] = 30.0
    rates.count("a")
    with pytest.raises(Refused):
        rates.count("a")
    rates.count("b")
