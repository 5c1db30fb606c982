"""The review pages as a browser without scripts meets them."""

from __future__ import annotations

import io
import re
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from PIL import Image

from neroli import Guard
from neroli.explain import Explanation
from neroli.serve.filters import Filters
from neroli.serve.sessions import FORM_TOKEN
from neroli.serve.settings import Settings
from neroli.serve.uploads import Upload
from pages import Checked
from reviewing import decided, dropped, filled, record, unusual_picture, usual_picture
from serving import Client, as_json, guard_with_examples, serving

ALL = Filters(flagged=False)
HOSTILE = ("<script>alert(1)</script>", "\u202egreen", "x" * 200)


def test_a_dropped_image_is_scored_placed_and_explained(
    server: Client, browser: httpx.Client, examples_guard: Guard
) -> None:
    answer = dropped(browser, unusual_picture())
    (shown,) = server.state.records.queue().records
    scores = examples_guard.check_calibrated().scores
    page = Checked(answer.text)
    assert answer.status_code == 200
    assert "out of distribution" in page.text
    assert f"{shown.score:.4g}" in page.text
    assert (scores < shown.score).all()
    assert f"higher than those of all {len(scores)} calibration images" in page.text
    captions = [image["alt"] for image in page.all("img")]
    assert sum(str(caption).startswith("Where evidence is unusual") for caption in captions) == 1
    assert sum(str(caption).startswith("training image") for caption in captions) >= 5
    assert (
        str(examples_guard.explain(Image.open(io.BytesIO(unusual_picture()))).summary) in page.text
    )


def test_a_score_among_the_others_is_counted_against_them(
    server: Client, browser: httpx.Client, examples_guard: Guard
) -> None:
    text = Checked(dropped(browser, usual_picture()).text).text
    (shown,) = server.state.records.queue(ALL).records
    lower = sum(float(score) < shown.score for score in examples_guard.check_calibrated().scores)
    assert 0 < lower < 120
    assert f"higher than those of {lower} of the 120 calibration images" in text
    assert "not flagged" in text


def test_an_image_dropped_in_again_shows_the_record_it_has(
    server: Client, browser: httpx.Client
) -> None:
    assert "Scored before" not in dropped(browser, unusual_picture()).text
    (first,) = server.state.records.queue(ALL).records
    assert decided(browser, first.id, decision="ood", note="a stent").status_code == 303
    again = dropped(browser, unusual_picture()).text
    assert [one.id for one in server.state.records.queue(ALL).records] == [first.id]
    assert f'href="/records/{first.id}"' in again and "Scored before" in again
    assert "really out of distribution" in again and "a stent" in again
    assert "Which neurons" in again
    assert server.state.records.decisions().images == 1
    sent = as_json(unusual_picture())
    assert server.post("/v1/score", json=sent).status_code == 200  # programs are recorded always
    assert len(server.state.records.queue(ALL).records) == 2


def test_the_name_of_a_file_is_nowhere(
    server: Client, browser: httpx.Client, tmp_path: Path
) -> None:
    assert "Doe" not in dropped(browser, unusual_picture()).text
    assert "Doe" not in browser.get("/queue").text
    assert all(b"Doe" not in path.read_bytes() for path in tmp_path.iterdir())


def test_nothing_of_a_picture_is_kept_unless_asked_for(
    examples_guard: Guard, tmp_path: Path
) -> None:
    with (
        serving(tmp_path, guard=examples_guard) as server,
        httpx.Client(base_url=server.address) as client,
    ):
        assert "Nothing of the picture is kept" in client.get("/").text
        dropped(client, unusual_picture())
        (shown,) = server.state.records.queue().records
        assert server.state.records.picture(shown.id, "thumbnail") is None
        page = client.get(f"/records/{shown.id}").text
        assert "was not kept" in page and "data-explain" not in page
        assert client.get(f"/records/{shown.id}/explanation").status_code == 404
        assert not re.search(r"<img", client.get("/queue").text)


def test_what_is_no_image_is_refused_with_a_page(browser: httpx.Client, server: Client) -> None:
    for content in (b"", b"no image at all"):
        answer = dropped(browser, content)
        assert answer.status_code == 422
        assert 'role="alert"' in answer.text and answer.headers["content-type"].startswith("text/")
    assert server.state.records.queue(ALL).records == ()


def test_a_verdict_is_shown_even_if_it_cannot_be_explained(
    server: Client, browser: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(upload: Upload) -> Explanation:
        raise RuntimeError("of this the page says nothing")

    monkeypatch.setattr(server.state.engine, "explain", broken)
    answer = dropped(browser, unusual_picture())
    assert answer.status_code == 200
    assert "out of distribution" in answer.text and "The verdict stands" in answer.text
    assert "says nothing" not in answer.text


def test_a_page_that_fails_says_so_as_a_page(
    server: Client, browser: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("of this the page says nothing")

    monkeypatch.setattr(server.state.records, "queue", broken)
    answer = browser.get("/queue")
    assert answer.status_code == 500 and 'role="alert"' in answer.text
    assert "its log says why" in answer.text and "says nothing" not in answer.text


def test_records_that_are_gone_are_a_page_that_says_when_to_try_again(
    server: Client, browser: httpx.Client, tmp_path: Path
) -> None:
    aside = server.records.rename(tmp_path / "aside.sqlite")
    answer = browser.get("/queue")
    assert answer.status_code == 503 and int(answer.headers["retry-after"]) >= 1
    assert "cannot be used now" in answer.text and str(tmp_path) not in answer.text
    aside.rename(server.records)
    assert browser.get("/queue").status_code == 200


def test_a_kept_image_is_explained_anew(browser: httpx.Client, server: Client) -> None:
    dropped(browser, unusual_picture())
    (shown,) = server.state.records.queue().records
    waiting = browser.get(f"/records/{shown.id}").text
    assert f'data-explain="/records/{shown.id}/explanation"' in waiting
    page = browser.get(f"/records/{shown.id}/explanation").text
    assert "Which neurons" in page and "Which neurons" not in waiting
    assert "data-explain" not in page


def test_a_record_of_another_guard_is_not_placed_among_these_scores(
    browser: httpx.Client, server: Client
) -> None:
    old = replace(record(1, "ab" * 8), predicted_name=None)
    server.state.records.add([old])
    page = browser.get(f"/records/{old.id}").text
    assert "Another version of the guard scored it" in page
    assert 'class="chart"' not in page and "class 1" in page


def test_the_page_on_the_guard_says_what_it_is(
    browser: httpx.Client, server: Client, examples_guard: Guard
) -> None:
    text = Checked(browser.get("/guard").text).text
    manifest = examples_guard.manifest()
    assert manifest.calibration is not None
    assert manifest.classifier.weights_hash in text
    assert server.state.engine.guard_version in text
    assert manifest.created in text
    assert f"{manifest.calibration.threshold:.6g}" in text
    assert "at most 5% of in-distribution images flagged, with 90% confidence" in text
    assert "No alarm after 0 images" in text
    assert "low_relevance_neurons" in text


def test_the_head_of_a_page_can_be_asked_for_alone(browser: httpx.Client) -> None:
    for path in ("/", "/queue", "/static/pages.css"):
        answer = browser.head(path)
        assert answer.status_code == 200 and answer.content == b""
    assert browser.head("/queue?order=worst").status_code == 400
    assert browser.head("/drift/reset").status_code == 405


def test_an_alarm_is_on_every_page(browser: httpx.Client, server: Client) -> None:
    server.state.drift.update([1 / 121] * 400, [True] * 400)
    for path in ("/", "/queue", "/guard"):
        page = browser.get(path).text
        assert "Drift alarm." in page
        assert "only if they are as they should be, calibrate again on such" in page


def test_an_alarm_is_reset_by_a_form_of_the_server_alone(
    browser: httpx.Client, server: Client
) -> None:
    assert "/drift/reset" not in browser.get("/guard").text
    server.state.drift.update([1 / 121] * 400, [True] * 400)
    assert 'action="/drift/reset"' in browser.get("/guard").text
    assert browser.post("/drift/reset", data={"token": "guessed"}).status_code == 400
    other = {"Origin": "http://attacker.example"}
    form = {"token": FORM_TOKEN}
    assert browser.post("/drift/reset", data=form, headers=other).status_code == 403
    assert server.state.drift.alarm
    answer = browser.post("/drift/reset", data=form)
    assert (answer.status_code, answer.headers["location"]) == (303, "/guard#drift")
    assert "Drift alarm." not in browser.get("/").text
    assert "No alarm after 0 images" in browser.get("/guard").text
    assert "neroli_drift_alarm 0.0" in server.get("/metrics").text


def test_names_of_classes_are_shown_as_text(tmp_path: Path) -> None:
    settings = Settings(keep_thumbnails=True, keep_images=True)
    with (
        serving(tmp_path, settings, guard=guard_with_examples(HOSTILE)) as server,
        httpx.Client(base_url=server.address, timeout=60) as client,
    ):
        shown = [dropped(client, usual_picture(seed)).text for seed in range(3)]
        (found, *_) = server.state.records.queue(ALL).records
        paths = ("/queue?verdict=all", "/guard", f"/records/{found.id}")
        shown += [client.get(path).text for path in paths]
        for page in shown:
            Checked(page)
            assert "<script>alert" not in page and "\u202e" not in page
        queue = shown[3]
        assert "x" * 61 not in queue
        assert any("&lt;script&gt;alert" in page for page in shown)


def test_pages_run_only_the_script_of_the_server_and_load_nothing_else(
    browser: httpx.Client, server: Client
) -> None:
    filled(server, 2)
    for path in ("/", "/queue", "/guard", f"/records/{0:032x}", "/login"):
        answer = browser.get(path)
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy
        page = Checked(answer.text)
        assert page.all("script") == [{"src": "/static/pages.js", "defer": None}]
        for name, attributes in page.tags:
            assert not {key for key in attributes if key.startswith("on") or key == "style"}
            for key in ("src", "href", "action"):
                if name != "svg" and key in attributes:
                    assert re.match(r"/(?!/)|#|data:", str(attributes[key]))
        for sheet in ("/static/pages.css", "/static/pages.js"):
            content = browser.get(sheet)
            assert content.status_code == 200
            assert "http" not in content.text and "url(" not in content.text


def test_every_field_has_a_label_and_every_picture_words(
    browser: httpx.Client, server: Client
) -> None:
    filled(server, 3)
    for answer in (
        dropped(browser, unusual_picture()),
        browser.get("/queue"),
        browser.get("/login"),
    ):
        page = Checked(answer.text)
        labelled = {label.get("for") for label in page.all("label")}
        for field in page.all("input"):
            named = field.get("id") in labelled or field.get("aria-label")
            within = field["type"] in ("radio", "checkbox", "date") if "type" in field else False
            assert named or within or field.get("type") == "hidden"
        assert all(image["alt"] for image in page.all("img"))
        assert all(svg["role"] == "img" and svg["aria-label"] for svg in _charts(page))
        ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
        assert len(set(ids)) == len(ids)


def test_until_the_guard_is_loaded_pages_say_so(tmp_path: Path) -> None:
    with serving(tmp_path, load=lambda state: None) as server:
        for path in ("/", "/queue", "/guard"):
            answer = httpx.get(server.address + path)
            assert answer.status_code == 503
            assert "still being loaded" in answer.text and "retry-after" in answer.headers


def _charts(page: Checked) -> list[dict[str, str | None]]:
    return [svg for svg in page.all("svg") if svg.get("aria-hidden") != "true"]
