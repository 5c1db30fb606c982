"""The API as clients meet it, over HTTP."""

from __future__ import annotations

import base64
import io
import logging
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from neroli.errors import RecordsError
from neroli.explain.facts import shown
from neroli.serve.drift import Drift
from neroli.serve.engine import version_of
from neroli.serve.records import Records
from neroli.serve.settings import Limits, Settings
from neroli.serve.state import State
from neroli.serve.uploads import Refused, Upload, decoded
from serving import (
    Client,
    as_json,
    colour_guard,
    colour_pictures,
    encoded,
    png_header,
    serving,
    verdicts_of,
)


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    limits = Limits(images=5, pixels=10_000, pixels_at_once=20_000, upload_bytes=100_000)
    with serving(tmp_path_factory.mktemp("server"), Settings(limits=limits)) as client:
        yield client


@pytest.mark.parametrize("kind", ["json", "form"])
def test_a_verdict_is_that_of_the_guard(client: Client, kind: str) -> None:
    pictures = colour_pictures(3)
    contents = [encoded(picture) for picture in pictures]
    if kind == "json":
        answer = client.post("/v1/score", json=as_json(*contents))
    else:
        files = [("any", ("../name", content, "text/plain")) for content in contents]
        answer = client.post("/v1/score", files=files)
    assert answer.status_code == 200
    told = answer.json()
    expected = verdicts_of(pictures)
    assert [result["position"] for result in told["results"]] == [0, 1, 2]
    for at, result in enumerate(told["results"]):
        assert result["score"] == pytest.approx(expected["score"][at], rel=1e-5)
        assert result["p_value"] == pytest.approx(expected["p_value"][at])
        assert result["is_ood"] == expected["is_ood"][at]
        assert result["predicted_name"] == ("blue", "green", "red")[result["predicted_class"]]
    assert told["guard"]["version"] == version_of(colour_guard())
    assert told["guard"]["guarantee"] == (
        "at most 5% of in-distribution images flagged, with 90% confidence"
    )
    assert told["request"] == answer.headers["x-request-id"]


def test_a_verdict_is_recorded_before_it_is_said(client: Client) -> None:
    told = client.post("/v1/score", json=as_json(encoded(colour_pictures(1)[0]))).json()
    with sqlite3.connect(client.records) as database:
        rows = database.execute(
            "SELECT request, content, p_value FROM record WHERE id = ?", [told["results"][0]["id"]]
        ).fetchall()
    result = told["results"][0]
    assert rows == [(told["request"], result["content"], result["p_value"])]


def test_a_broken_image_does_not_stop_the_others(client: Client) -> None:
    good = encoded(colour_pictures(1)[0])
    answer = client.post("/v1/score", json=as_json(good, good[:50], png_header(101, 100), good))
    assert answer.status_code == 200
    results = answer.json()["results"]
    assert [result["position"] for result in results] == [0, 1, 2, 3]
    assert [result.get("error", {}).get("status") for result in results] == [None, 422, 413, None]
    assert "is damaged or truncated" in results[1]["error"]["message"]
    assert not {"is_ood", "score"} & results[1].keys()  # nothing to take for a verdict
    assert results[0]["score"] == results[3]["score"]


def test_nothing_but_broken_images_is_an_error(client: Client) -> None:
    answer = client.post("/v1/score", json=as_json(b"nonsense", b""))
    assert answer.status_code == 422
    assert answer.json() == {
        "error": {
            "status": 422,
            "message": "Image 0 of 2 (from 0): The image is not an image in a known format "
            "(BMP, GIF, JPEG, JPEG2000, PNG, PPM, TIFF, WEBP).",
            "request": answer.headers["x-request-id"],
        }
    }


def test_a_lone_image_is_not_counted(client: Client) -> None:
    odd = encoded(Image.new("RGB", (9, 8)))
    for image, reason in ((b"", "The image is empty (0 bytes)."), (odd, "The image is 9x8 ")):
        for path in ("/v1/score", "/v1/explain"):
            message = client.post(path, json=as_json(image)).json()["error"]["message"]
            assert message.startswith(reason)


def test_an_explanation_is_that_of_the_guard_and_not_recorded(client: Client) -> None:
    picture = colour_pictures(1)[0]
    recorded = records_in(client)
    answer = client.post("/v1/explain", files={"image": encoded(picture)})
    assert answer.status_code == 200 and records_in(client) == recorded
    told = answer.json()
    expected = colour_guard().explain(picture)
    assert told["explanation"]["summary"] == expected.summary
    assert told["explanation"]["score"] == pytest.approx(expected.score, rel=1e-5)
    assert len(told["explanation"]["neurons"]["top"]) == 10
    overlay = np.asarray(Image.open(io.BytesIO(base64.b64decode(told["maps"]["deviation"]))))
    close = np.abs(overlay.astype(int) - shown(expected.deviation, expected.picture))
    assert close.max() <= 1
    two = client.post("/v1/explain", json=as_json(encoded(picture), encoded(picture)))
    assert two.status_code == 422 and "one image" in two.json()["error"]["message"]


def records_in(client: Client) -> int:
    with sqlite3.connect(client.records) as database:
        return int(database.execute("SELECT count(*) FROM record").fetchone()[0])


def test_together_images_may_hold_no_more_pixels_than_there_is_room_for(client: Client) -> None:
    plain = encoded(Image.new("RGB", (100, 90)))
    answer = client.post("/v1/score", json=as_json(plain, plain, plain))
    assert answer.status_code == 413
    assert "27,000 pixels, more than the 20,000" in answer.json()["error"]["message"]


def test_names_are_neither_logged_nor_stored(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    content = encoded(colour_pictures(1)[0])
    settings = Settings(keep_images=True, keep_thumbnails=True)
    with serving(tmp_path, settings) as client:
        for body in (content, content[:40]):
            client.post("/v1/score?patient=Doe-Jane", files={"Doe-Jane": ("Doe-Jane.png", body)})
        client.get("/Doe-Jane.png")
        metrics = client.get("/metrics").text
    ours = [r for r in caplog.records if r.name.startswith("neroli")]
    lines = [r.getMessage() for r in ours if r.name == "neroli.serve.requests"]
    assert sum("path=/v1/score status=200 images=1" in line for line in lines) == 1
    assert sum("path=/v1/score status=422 images=1" in line for line in lines) == 1
    assert sum("path=- status=404 images=0" in line for line in lines) == 1
    stored = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert "Doe-Jane" not in " ".join(r.getMessage() for r in ours) + metrics
    assert b"Doe-Jane" not in stored


def test_without_a_record_there_is_no_verdict(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise RecordsError("database or disk is full: /secret/place")

    with serving(tmp_path) as client:
        monkeypatch.setattr(Records, "add", full)
        answer = client.post("/v1/score", json=as_json(encoded(colour_pictures(1)[0])))
        assert answer.status_code == 503
        assert "could not be written, so none is given" in answer.json()["error"]["message"]
        assert "secret" not in answer.text and "score" not in answer.json()
        monkeypatch.undo()
        again = client.post("/v1/score", json=as_json(encoded(colour_pictures(1)[0])))
        assert again.status_code == 200


def test_sizes_are_refused_while_all_decoders_are_busy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go = threading.Event(), threading.Event()

    def slow(data: bytes, limits: Limits) -> Upload:
        begun.set()
        assert go.wait(60)
        return decoded(data, limits)

    monkeypatch.setattr("neroli.serve.state.decoded", slow)
    images = [encoded(picture) for picture in colour_pictures(6)]
    answers: list[httpx.Response] = []
    with serving(tmp_path) as client:
        address = f"{client.address}/v1/score"
        busy = threading.Thread(
            target=lambda: answers.append(httpx.post(address, json=as_json(*images), timeout=90))
        )
        busy.start()
        try:
            assert begun.wait(60)
            large = as_json(png_header(60_000, 60_000))
            assert client.post("/v1/score", json=large).status_code == 413
            assert answers == []
        finally:
            go.set()
            busy.join()
    assert [answer.status_code for answer in answers] == [200]


def test_a_server_whose_records_are_gone_is_not_ready_until_they_are_back(tmp_path: Path) -> None:
    image = as_json(encoded(colour_pictures(1)[0]))
    with serving(tmp_path) as client:
        aside = client.records.rename(tmp_path / "aside.sqlite")
        answer = client.post("/v1/score", json=image)
        assert answer.status_code == 503 and int(answer.headers["retry-after"]) >= 1
        for path in ("/v2/health/ready", "/v2/models/guard/ready"):
            answer = client.get(path)
            assert answer.status_code == 503 and "Nothing can be recorded" in answer.text
            assert str(tmp_path) not in answer.text
        assert client.get("/v2/health/live").status_code == 200
        assert not client.records.exists()
        aside.rename(client.records)
        assert client.get("/v2/health/ready").status_code == 200
        assert client.post("/v1/score", json=image).status_code == 200


def test_who_waited_while_recording_failed_for_others_is_refused_at_once(tmp_path: Path) -> None:
    with serving(tmp_path) as client:
        state = client.state
        with pytest.raises(Refused, match="could not be written"):
            state._record([], [], state._failures - 1)


def test_a_server_lives_before_it_is_ready(tmp_path: Path) -> None:
    go = threading.Event()

    def load(state: State) -> None:
        assert go.wait(30)
        guard = colour_guard()
        records = Records(tmp_path / "records.sqlite", state.settings)
        state.open(guard, records, Drift.of(guard.check_calibrated()))

    with serving(tmp_path, load=load) as client:
        try:
            assert client.get("/v2/health/live").status_code == 200
            waiting = client.get("/v2/health/ready")
            assert waiting.status_code == 503 and "still being loaded" in waiting.json()["error"]
            scored = client.post("/v1/score", json=as_json(encoded(colour_pictures(1)[0])))
            assert scored.status_code == 503 and scored.headers["retry-after"] == "5"
        finally:
            go.set()
        client.until_ready()


def test_a_server_without_a_guard_is_never_ready_and_says_little(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def load(_: State) -> None:
        raise RuntimeError("no weights at /secret/place")

    with serving(tmp_path, load=load) as client:
        answer = client.get("/v2/health/ready")
        while "still" in answer.text:
            answer = client.get("/v2/health/ready")
        assert answer.status_code == 503
        assert "The guard could not be loaded; the server's log says why." in answer.text
        assert "secret" not in answer.text
    assert "no weights at /secret/place" in caplog.text


def test_a_failure_says_nothing_of_the_inside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(*_: object, **__: object) -> None:
        raise RuntimeError("at /secret/place")

    monkeypatch.setattr(State, "score", fail)
    with serving(tmp_path) as client:
        answer = client.post("/v1/score", json=as_json(encoded(colour_pictures(1)[0])))
    assert answer.status_code == 500
    assert answer.json()["error"]["message"] == "The server failed; its log says why."
    assert "at /secret/place" in caplog.text


def test_metrics_count_what_was_said(tmp_path: Path) -> None:
    pictures = [*colour_pictures(20), Image.new("RGB", (8, 8), "white")]
    flagged = int(verdicts_of(pictures)["is_ood"].sum())
    with serving(tmp_path) as client:
        client.post("/v1/score", json=as_json(*map(encoded, pictures), b"broken"))
        client.post("/v1/score", json=as_json(b"broken", b"too"))
        lines = dict(
            line.rsplit(" ", 1)
            for line in client.get("/metrics").text.splitlines()
            if not line.startswith("#")
        )
    assert float(lines['neroli_images_total{verdict="out_of_distribution"}']) == flagged
    assert float(lines['neroli_images_total{verdict="in_distribution"}']) == 21 - flagged
    assert float(lines['neroli_images_total{verdict="refused"}']) == 3
    assert float(lines["neroli_flagged_share"]) == pytest.approx(flagged / 21)
    assert float(lines['neroli_requests_total{path="/v1/score",status="200"}']) == 1
    assert float(lines["neroli_score_count"]) == 21
    threshold = colour_guard().check_calibrated().threshold
    below = [float(v) for k, v in lines.items() if k == f'neroli_score_bucket{{le="{threshold}"}}']
    assert below == [21 - flagged]
    assert float(lines["neroli_drift_alarm"]) in (0, 1)
    assert f'neroli_guard{{version="{version_of(colour_guard())}"}}' in lines
