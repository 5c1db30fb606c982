"""A ``neroli serve`` process that is killed, out of space, or sent what it should not be."""

from __future__ import annotations

import base64
import io
import re
import resource
import socket
import sqlite3
import subprocess
import threading
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from neroli.files import digest
from networks import colour_images
from serving import Client, as_json, colour_pictures, encoded, process

Running = tuple[subprocess.Popen[str], Client]

IMAGE = encoded(colour_pictures(1)[0])
JSON, FORM = "application/json", "multipart/form-data; boundary=x"
SCRIPT = b"<script>alert(document.cookie)</script>"


@dataclass(frozen=True)
class Killed:
    """What a server had said and recorded when it was killed under load."""

    said: list[httpx.Response]
    pictures: dict[str, np.ndarray[Any, Any]]
    records: Path


@pytest.fixture(scope="module")
def killed(saved_guard: Path, tmp_path_factory: pytest.TempPathFactory) -> Killed:
    pictures = colour_images(24, 4)[0]
    files = [encoded(Image.fromarray(pixels)) for pixels in pictures]
    said: list[httpx.Response] = []
    enough = threading.Event()

    def ask(address: str, first: int) -> None:
        body = as_json(*files[first : first + 3])
        with httpx.Client(base_url=address, timeout=60) as client:
            while True:
                try:
                    said.append(client.post("/v1/score", json=body))
                except httpx.TransportError:
                    return
                if len(said) > 60:
                    enough.set()

    records = tmp_path_factory.mktemp("server") / "records.sqlite"
    with process(saved_guard, records, "--keep-images") as (server, client):
        client.until_ready()
        clients = [threading.Thread(target=ask, args=(client.address, n)) for n in range(0, 24, 3)]
        for one in clients:
            one.start()
        assert enough.wait(60)
        server.kill()
        for one in clients:
            one.join()
    contents = [digest(file).hex() for file in files]
    return Killed(said, dict(zip(contents, pictures, strict=True)), records)


@pytest.fixture(scope="module")
def running(saved_guard: Path, killed: Killed) -> Iterator[Running]:
    """A server started again on those records."""
    with process(saved_guard, killed.records, "--keep-images") as (server, client):
        client.until_ready()
        yield server, client


@pytest.fixture
def client(running: Running) -> Iterator[Client]:
    """A client of one server for all; whatever it was sent, the next image has its verdict."""
    server, client = running
    yield client
    assert server.poll() is None
    assert client.post("/v1/score", json=as_json(IMAGE)).status_code == 200
    assert "Traceback" not in client.log.read_text()


def sent(client: Client, body: bytes, kind: str, path: str = "/v1/score") -> httpx.Response:
    return client.post(path, content=body, headers={"Content-Type": kind})


def form(*parts: bytes, name: bytes = b"a.png") -> bytes:
    head = b'--x\r\nContent-Disposition: form-data; name="image"; filename="%b"\r\n\r\n' % name
    return b"".join(head + part + b"\r\n" for part in parts) + b"--x--\r\n"


def recorded(records: Path) -> list[tuple[str, str, str, bytes]]:
    """Request, id, content hash and kept image of every record, in order of arrival."""
    with sqlite3.connect(records) as database:
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        return database.execute(
            "SELECT request, id, content, image FROM record LEFT JOIN picture USING (row) "
            "ORDER BY row"
        ).fetchall()


@pytest.mark.usefixtures("running")  # it has opened what the killed one left
def test_a_server_killed_under_load_has_recorded_all_it_said_and_nothing_half(
    killed: Killed,
) -> None:
    assert {answer.status_code for answer in killed.said} == {200}
    told = {
        (answer.json()["request"], result["id"], result["content"])
        for answer in killed.said
        for result in answer.json()["results"]
    }
    rows = recorded(killed.records)
    assert len(told) == 3 * len(killed.said) and told <= {row[:3] for row in rows}
    assert set(Counter(request for request, *_ in rows).values()) == {3}
    for _, _, content, image in rows:
        kept = np.asarray(Image.open(io.BytesIO(image)))
        np.testing.assert_array_equal(kept, killed.pictures[content])


def test_a_server_started_again_goes_on_where_it_was_killed(
    killed: Killed, running: Running
) -> None:
    _, client = running
    before = recorded(killed.records)
    told = client.post("/v1/score", json=as_json(IMAGE)).json()["results"][0]["id"]
    rows = recorded(killed.records)
    assert rows[:-1] == before and rows[-1][1] == told
    (counted,) = re.findall(r"([\d,]+) images scored", client.get("/queue").text)
    assert int(counted.replace(",", "")) == len({content for _, _, content, _ in rows})


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="limits of others are set on Linux")
def test_with_a_full_disk_there_is_no_verdict_and_later_there_is(running: Running) -> None:
    server, client = running
    assert client.post("/v1/score", json=as_json(IMAGE)).status_code == 200
    before = recorded(client.records)
    unlimited = resource.prlimit(server.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (1, unlimited[1]))  # no file is written
    try:
        for _ in range(3):
            answer = client.post("/v1/score", json=as_json(IMAGE))
            assert answer.status_code == 503
            assert "is_ood" not in answer.text and "score" not in answer.json()
        assert client.get("/v2/health/live").status_code == 200
        assert client.get("/queue?verdict=all").status_code == 200
    finally:
        resource.prlimit(server.pid, resource.RLIMIT_FSIZE, unlimited)
    assert recorded(client.records) == before
    told = client.post("/v1/score", json=as_json(IMAGE)).json()["results"][0]["id"]
    assert [row[1] for row in recorded(client.records)] == [*(row[1] for row in before), told]


def zeros_to_unpack() -> bytes:
    """A PNG of 196 million pixels in 100 kB."""
    return encoded(Image.new("1", (14_000, 14_000)), compress_level=1)


def text_to_unpack() -> bytes:
    """A PNG whose comment unpacks to 20 MB."""
    chunk = b"zTXtcomment\0\0" + zlib.compress(bytes(20 * 2**20), 1)
    whole = (len(chunk) - 4).to_bytes(4) + chunk + zlib.crc32(chunk).to_bytes(4)
    return IMAGE[:33] + whole + IMAGE[33:]


def wrong_sum() -> bytes:
    """A PNG of which a byte of the pixels is turned over."""
    at = IMAGE.index(b"IDAT") + 8
    return IMAGE[:at] + bytes([IMAGE[at] ^ 0xFF]) + IMAGE[at + 1 :]


@pytest.mark.parametrize(
    ("make", "status"),
    [
        (zeros_to_unpack, 413),
        (text_to_unpack, 422),
        (wrong_sum, 422),
        (lambda: b"GIF89a=1;/*" + SCRIPT + b"*/", 422),
        (lambda: encoded(colour_pictures(1)[0], "JPEG")[:-200], 422),
        (lambda: b"II*\0\xff\xff\xff\x7f" + bytes(100), 422),
    ],
    ids=["bomb", "bomb in a comment", "corrupt", "gif that is a script", "cut", "tiff to nowhere"],
)
def test_what_is_no_picture_or_too_much_of_one_is_refused(
    client: Client, make: Callable[[], bytes], status: int
) -> None:
    body = form(make())
    for path in ("/v1/score", "/v1/explain"):
        answer = sent(client, body, FORM, path)
        assert answer.status_code == status
        assert SCRIPT not in answer.content


def test_of_a_picture_with_something_behind_it_only_the_picture_counts(client: Client) -> None:
    hidden = io.BytesIO()
    with zipfile.ZipFile(hidden, "w") as archive:
        archive.writestr("payload.js", SCRIPT)
    picture = encoded(colour_pictures(1)[0], "JPEG")
    told = client.post("/v1/score", json=as_json(picture, picture + hidden.getvalue() + SCRIPT))
    alone, with_more = told.json()["results"]
    assert with_more["score"] == alone["score"] and with_more["content"] != alone["content"]
    kept = {identity: image for _, identity, _, image in recorded(client.records)}
    assert kept[with_more["id"]] == kept[alone["id"]]  # pixels alone


@pytest.mark.parametrize(
    ("name", "status"),
    [
        (b"../../../../etc/passwd", 200),
        (b"C:\\Windows\\system.ini", 200),
        (b"a\0.png", 200),
        (b"\xff\xfe\x1b[2J", 200),
        (b'a.png"\r\nX-Injected: yes', 200),
        (b"a\nb", 200),
        (b"n" * 20_000, 400),
    ],
    ids=["traversal", "windows", "nul", "no text", "header", "newline", "20 kB"],
)
def test_names_of_files_lead_nowhere(client: Client, name: bytes, status: int) -> None:
    answer = sent(client, form(IMAGE, name=name), FORM)
    assert answer.status_code == status
    assert "x-injected" not in answer.headers
    everything = b"".join(path.read_bytes() for path in client.records.parent.iterdir())
    assert name[:50] not in everything + answer.content
    assert {path.name.split(".")[0] for path in client.records.parent.iterdir()} == {"records"}


DEEP = b"[" * 200_000
PIXELS = b'{"inputs": [{"name": "images", "datatype": "UINT8", "shape": %b, "data": %b}]}'


@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [
        (form(*[b"."] * 10_000), FORM, 413),
        (form(IMAGE), "multipart/form-data; boundary=other", 400),
        (form(IMAGE), 'multipart/form-data; boundary="' + "b" * 5_000 + '"', 400),
        (form(IMAGE)[:-8], FORM, 400),
        (b'{"images": ' + DEEP, JSON, 422),
        (b'{"images": ' + DEEP + b"]" * len(DEEP) + b"}", JSON, 422),
        (b'{"images": [NaN]}', JSON, 422),
        (b'{"images": [Infinity, 1e999]}', JSON, 422),
        (b'{"images": ["\\ud800"]}', JSON, 422),
        (b'{"images": ["' + base64.b64encode(b"no image") + b'====="]}', JSON, 422),
        (b'{"images": ["' + b"=" * 1_000_000 + b'"]}', JSON, 422),
    ],
    ids=["10,000 parts", "other boundary", "long boundary", "cut form", "deep", "deep and whole",
         "NaN", "infinite", "half a character", "base64 and more", "no base64"],
)  # fmt: skip
def test_bodies_that_are_not_what_they_say_are_refused(
    client: Client, body: bytes, kind: str, status: int
) -> None:
    answer = sent(client, body, kind)
    assert answer.status_code == status
    assert answer.json()["error"]["status"] == status


@pytest.mark.parametrize(
    "body",
    [
        PIXELS % (b"[1, 8, 8, 3]", DEEP),
        PIXELS % (b"[1, 8, 8, 3]", b"[NaN]"),
        PIXELS % (b"[1, 8, 8, 3]", b"[" + b"-1," * 191 + b"256]"),
        PIXELS % (b"[1, 99999999999, 99999999999, 3]", b"[0]"),
        PIXELS % (b"[-1, -8, -8, -3]", b"[0]"),
        PIXELS % (b"[1e999, 8, 8, 3]", b"[0]"),
        PIXELS % (b"[1, 0, 0, 3]", b"[]"),
    ],
    ids=["deep", "NaN", "range", "huge shape", "negative", "infinite", "empty"],
)
def test_tensors_that_are_not_what_they_say_are_refused(client: Client, body: bytes) -> None:
    answer = sent(client, body, JSON, "/v2/models/guard/infer")
    assert answer.status_code in (400, 413, 422)
    assert set(answer.json()) == {"error"}


@pytest.mark.parametrize(
    "request_line",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200),  # TLS
        b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 200_000,
        b"POST /v1/score HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
        b"POST /v1/score HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n"
        b"Content-Length: 2\r\n\r\n",
        b"POST /v1/score HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"fffffffffffffffffffff\r\n",
    ],
    ids=["tls", "long header", "negative length", "two lengths", "chunk"],
)
def test_what_is_no_request_is_answered_400(client: Client, request_line: bytes) -> None:
    with socket.create_connection((client.base_url.host, client.base_url.port or 80)) as bare:
        bare.settimeout(20)
        bare.sendall(request_line)
        assert bare.recv(65536).startswith(b"HTTP/1.1 400 ")
