"""``neroli serve`` as a process of its own, over HTTP."""

from __future__ import annotations

import asyncio
import signal
import socket
import sqlite3
import threading
import time
from pathlib import Path

import httpx
import pytest
from safetensors.torch import save_file
from typer.testing import CliRunner, Result

from neroli import Guard
from neroli.cli import app
from neroli.cli import serve as command
from neroli.serve.listening import bound_to
from neroli.serve.settings import Settings
from networks import tiny_network, trained_colour_network
from recorded import opened
from serving import as_json, process


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_a_server_told_to_stop_finishes_what_it_accepted(
    saved_guard: Path, pictures: Path, tmp_path: Path
) -> None:
    file = next((pictures / "new").iterdir())
    records = tmp_path / "records.sqlite"
    with process(saved_guard, records, "--latency", 4, "--batch-size", 100) as (server, client):
        client.until_ready()
        answers: list[httpx.Response] = []
        body = as_json(file.read_bytes())
        waiting = [
            threading.Thread(target=lambda: answers.append(client.post("/v1/score", json=body)))
            for _ in range(3)
        ]
        for thread in waiting:
            thread.start()
        while "neroli_queue_images 3.0" not in client.get("/metrics").text:
            assert not answers, "they wait for one another"
            time.sleep(0.01)
        server.send_signal(signal.SIGTERM)
        for thread in waiting:
            thread.join()
        assert server.wait(timeout=60) == 0
    log = client.log.read_text()
    assert [answer.status_code for answer in answers] == [200] * 3
    expected = Guard.load(saved_guard, trained_colour_network())([file])
    told = [answer.json()["results"][0]["score"] for answer in answers]
    # of scores near zero, standardised, rounding is not relative to them but to their unit of one
    assert told == pytest.approx([float(expected.score[0])] * 3, rel=1e-5, abs=2e-5)
    with sqlite3.connect(records) as database:
        kept = {identity for (identity,) in database.execute("SELECT id FROM record")}
    assert kept == {answer.json()["results"][0]["id"] for answer in answers}
    assert log.count("path=/v1/score status=200 images=1") == 3
    assert "Traceback" not in log and file.name not in log


def test_it_says_which_records_it_goes_on_with(
    saved_guard: Path, pictures: Path, tmp_path: Path
) -> None:
    """A path that was mistyped shows as records without images."""
    body = as_json(next((pictures / "new").iterdir()).read_bytes())
    said = []
    for _ in range(2):
        with process(saved_guard, tmp_path / "records.sqlite") as (server, client):
            assert server.stdout is not None
            ready, records = server.stdout.readline(), server.stdout.readline()
            assert ready.startswith("Ready: ")
            said.append(records)
            client.until_ready()
            assert client.post("/v1/score", json=body).status_code == 200
            server.send_signal(signal.SIGTERM)
            assert server.wait(timeout=60) == 0
    assert [text.partition(", ")[2] for text in said] == [
        f"{count} images of this guard so far.\n" for count in (0, 1)
    ]
    assert repr(str(tmp_path / "records.sqlite")) in said[0]


def test_a_guard_of_another_model_is_never_ready(saved_guard: Path, tmp_path: Path) -> None:
    weights = tmp_path / "other.safetensors"
    save_file(tiny_network(num_classes=3, seed=9).state_dict(), weights)
    with process(saved_guard, tmp_path / "r.sqlite", "--weights", weights) as (server, client):
        answer = client.get("/v2/health/ready")
        while "still being loaded" in answer.text:
            time.sleep(0.05)
            answer = client.get("/v2/health/ready")
        assert answer.status_code == 503 and "could not be loaded" in answer.text
        assert client.get("/v2/health/live").status_code == 200
        server.send_signal(signal.SIGINT)
        assert server.wait(timeout=60) == 0
    log = client.log.read_text()
    assert "was fitted on a model with other weights" in log and "interrupted" not in log


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--host", "0.0.0.0"], "give a token that clients must send (--token-file)"),
        (["--token-file", "nowhere"], "Cannot read the token 'nowhere'"),
    ],
)
def test_what_cannot_be_served_is_said_in_a_sentence(
    saved_guard: Path, tmp_path: Path, options: list[str], reason: str
) -> None:
    result = run("serve", saved_guard, "--records", tmp_path / "r.sqlite", *options)
    assert result.exit_code == 1 and reason in result.stderr
    assert "Traceback" not in result.stderr


def test_a_token_must_be_hard_to_guess(saved_guard: Path, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("secret\n")
    result = run(
        "serve", saved_guard, "--records", tmp_path / "r", "--token-file", tmp_path / "token"
    )
    assert result.exit_code == 1 and "16 characters or more" in result.stderr
    assert "secret\n" not in result.stderr


def test_an_address_in_use_is_said(saved_guard: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        result = run("serve", saved_guard, "--records", tmp_path / "r.sqlite", "--port", port)
    assert result.exit_code == 1
    assert f"Cannot listen on 127.0.0.1, port {port}: Address already in use" in result.stderr


def test_records_that_another_server_has_are_refused(saved_guard: Path, tmp_path: Path) -> None:
    records = opened(tmp_path)
    records.claim()
    result = run("serve", saved_guard, "--records", tmp_path / "records.sqlite")
    assert result.exit_code == 1
    assert "Another server has the records" in result.stderr and "--records" in result.stderr
    assert run("records", tmp_path / "records.sqlite").exit_code == 0  # reading is allowed
    records.close()
    opened(tmp_path).claim()


def test_small_answers_are_sent_at_once() -> None:
    seen: list[bool] = []

    class Connection(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            accepted = transport.get_extra_info("socket")
            seen.append(bool(accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)))
            transport.close()

    async def meet() -> None:
        with bound_to(Settings(port=0)) as bound:
            server = await asyncio.get_running_loop().create_server(Connection, sock=bound)
            async with server:
                reader, writer = await asyncio.open_connection(*bound.getsockname())
                await reader.read()
                writer.close()

    asyncio.run(meet())
    assert seen == [True]


def test_without_the_extra_one_sentence_says_what_to_install(
    saved_guard: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "find_spec", lambda name: None if name == "uvicorn" else object())
    result = run("serve", saved_guard, "--records", tmp_path / "r.sqlite")
    assert result.exit_code == 1
    assert "Serving needs uvicorn: install neroli with its [serve] extra" in result.stderr
