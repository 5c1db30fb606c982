"""The review pages as a browser without scripts meets them."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
import torch
from PIL import Image

from neroli import Guard
from neroli.calibration import Calibration, Promise
from neroli.explain import Explanation
from neroli.serve.filters import Filters
from neroli.serve.page_charts import calibration_chart
from neroli.serve.page_facts import Place, p_value_in_words
from neroli.serve.sessions import COOKIE, FORM_TOKEN, cookie_of
from neroli.serve.uploads import Upload
from pages import Checked
from served import Served, guard_with_examples, record, served, unusual_picture, usual_picture

SECRET = "Doe_Jane_1970.png"
ALL = Filters(flagged=False)
HOSTILE = ("<script>alert(1)</script>", "\u202egreen", "x" * 200)


@pytest.fixture(scope="module")
def examples_guard() -> Guard:
    return guard_with_examples()


@pytest.fixture
def server(examples_guard: Guard, tmp_path: Path) -> Iterator[Served]:
    with served(tmp_path, examples_guard, keep_thumbnails=True, keep_images=True) as running:
        yield running


@pytest.fixture
def browser(server: Served) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.address, timeout=60) as client:
        yield client


def dropped(client: httpx.Client, image: bytes, token: str = FORM_TOKEN) -> httpx.Response:
    """The answer to an image that was dropped in."""
    parts = {"token": (None, token), "image": (SECRET, image, "image/png")}
    return client.post("/", files=parts)


def filled(server: Served, count: int, **changed: object) -> list[str]:
    """The ids of so many flagged records of the guard that is served."""
    records = [record(n, server.state.engine.guard_version, **changed) for n in range(count)]
    server.state.records.add(records)
    return [one.id for one in records]


def items(page: str) -> list[str]:
    """The ids of the records that a page of the queue shows, in its order."""
    return re.findall(r'<li class="item" id="item-([0-9a-f]{32})">', page)


def decided(client: httpx.Client, identity: str, **form: str) -> httpx.Response:
    values = {"token": FORM_TOKEN, "note": "", "back": ""} | form
    return client.post(f"/records/{identity}/decision", data=values)


def test_a_dropped_image_is_scored_placed_and_explained(
    server: Served, browser: httpx.Client, examples_guard: Guard
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
    server: Served, browser: httpx.Client, examples_guard: Guard
) -> None:
    text = Checked(dropped(browser, usual_picture()).text).text
    (shown,) = server.state.records.queue(ALL).records
    lower = sum(float(score) < shown.score for score in examples_guard.check_calibrated().scores)
    assert 0 < lower < 120
    assert f"higher than those of {lower} of the 120 calibration images" in text
    assert "not flagged" in text


def test_the_name_of_a_file_is_nowhere(
    server: Served, browser: httpx.Client, tmp_path: Path
) -> None:
    assert "Doe" not in dropped(browser, unusual_picture()).text
    assert "Doe" not in browser.get("/queue").text
    assert all(b"Doe" not in path.read_bytes() for path in tmp_path.iterdir())


def test_nothing_of_a_picture_is_kept_unless_asked_for(
    examples_guard: Guard, tmp_path: Path
) -> None:
    with (
        served(tmp_path, examples_guard) as server,
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


def test_what_is_no_image_is_refused_with_a_page(browser: httpx.Client, server: Served) -> None:
    for content in (b"", b"no image at all"):
        answer = dropped(browser, content)
        assert answer.status_code == 422
        assert 'role="alert"' in answer.text and answer.headers["content-type"].startswith("text/")
    assert server.state.records.queue(ALL).records == ()


def test_a_verdict_is_shown_even_if_it_cannot_be_explained(
    server: Served, browser: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(upload: Upload) -> Explanation:
        raise RuntimeError("of this the page says nothing")

    monkeypatch.setattr(server.state.engine, "explain", broken)
    answer = dropped(browser, unusual_picture())
    assert answer.status_code == 200
    assert "out of distribution" in answer.text and "The verdict stands" in answer.text
    assert "says nothing" not in answer.text


def test_the_queue_shows_every_flagged_record_once(server: Served, browser: httpx.Client) -> None:
    ids = filled(server, 60)
    seen, address = [], "/queue"
    while address:
        page = browser.get(address).text
        seen += items(page)
        older = re.search(r'<a href="([^"]*)" rel="next">', page)
        address = older[1].replace("&amp;", "&") if older else ""
    assert seen == ids  # the lowest p-values first


@pytest.mark.parametrize(
    ("query", "wanted"),
    [
        ("", [0, 1, 2, 3, 4]),
        ("order=newest", [4, 3, 2, 1, 0]),
        ("predicted=1", [1, 4]),
        ("review=undecided", [1, 2, 3, 4]),
        ("review=decided", [0]),
        ("since=2025-10-10", []),
        ("since=2025-10-09", [0, 1, 2, 3, 4]),
        (f"guard={'0' * 16}", []),
        ("verdict=all", [0, 1, 2, 3, 4, 5]),
    ],
)
def test_filters_narrow_the_queue(
    server: Served, browser: httpx.Client, query: str, wanted: list[int]
) -> None:
    ids = filled(server, 5)
    server.state.records.decide(ids[0], "fine")
    passed = record(5, server.state.engine.guard_version, is_ood=False)
    server.state.records.add([passed])
    assert items(browser.get(f"/queue?{query}").text) == [[*ids, passed.id][n] for n in wanted]


@pytest.mark.parametrize(
    "query", ["verdict=none", "order=worst", "predicted=x", "since=yesterday", "after=nonsense"]
)
def test_filters_that_cannot_be_are_refused(browser: httpx.Client, query: str) -> None:
    answer = browser.get(f"/queue?{query}")
    assert answer.status_code == 400
    assert 'role="alert"' in answer.text


def test_a_decision_and_its_note_stay_and_can_be_taken_back(
    server: Served, browser: httpx.Client
) -> None:
    first, _ = filled(server, 2)
    answer = decided(browser, first, decision="fine", note='bubble <b>"', back="order=newest")
    assert answer.status_code == 303
    assert answer.headers["location"] == "/queue?verdict=flagged&review=all&order=newest"
    page = browser.get("/queue").text
    assert "bubble &lt;b&gt;&#34;" in page
    assert "2 images scored, 2 flagged; 1 of these reviewed (1 actually fine, 0 really OOD)" in page
    assert decided(browser, first, decision="").headers["location"] == f"/records/{first}"
    assert server.state.records.get(first).decision is None


def test_the_script_is_given_the_parts_that_changed(server: Served, browser: httpx.Client) -> None:
    first, _ = filled(server, 2)
    part = decided(browser, first, decision="ood", part="1")
    assert part.status_code == 200
    assert f'id="decision-{first}"' in part.text and 'id="summary"' in part.text
    assert "1 really OOD" in part.text and "<html" not in part.text


def test_a_form_leads_nowhere_else(server: Served, browser: httpx.Client) -> None:
    (first,) = filled(server, 1)
    for back in ("//evil.example/", "https://evil.example", "order=newest\r\nSet-Cookie: a=b"):
        answer = decided(browser, first, decision="ood", back=back)
        assert answer.headers.get("location", "/queue").startswith("/queue")
        assert "set-cookie" not in answer.headers


def test_forms_of_other_sites_change_nothing(server: Served, browser: httpx.Client) -> None:
    (first,) = filled(server, 1)
    assert decided(browser, first, decision="ood", token="guessed").status_code == 400
    assert dropped(browser, unusual_picture(), token="guessed").status_code == 400
    records = server.state.records.queue(ALL).records
    assert [(one.id, one.decision) for one in records] == [(first, None)]


def test_nothing_is_decided_from_a_form_that_is_not_understood(
    server: Served, browser: httpx.Client
) -> None:
    (first,) = filled(server, 1)
    assert decided(browser, first, decision="ood", back="order=worst").status_code == 400
    assert server.state.records.get(first).decision is None


def test_what_cannot_be_decided_is_refused(server: Served, browser: httpx.Client) -> None:
    (first,) = filled(server, 1)
    assert decided(browser, first, decision="perhaps").status_code == 400
    assert decided(browser, first, decision="ood", note="x" * 3000).status_code == 400
    assert decided(browser, "f" * 32, decision="ood").status_code == 404
    assert browser.get(f"/records/{'f' * 32}").status_code == 404


def test_a_kept_image_is_explained_anew(browser: httpx.Client, server: Served) -> None:
    dropped(browser, unusual_picture())
    (shown,) = server.state.records.queue().records
    waiting = browser.get(f"/records/{shown.id}").text
    assert f'data-explain="/records/{shown.id}/explanation"' in waiting
    page = browser.get(f"/records/{shown.id}/explanation").text
    assert "Which neurons" in page and "Which neurons" not in waiting
    assert "data-explain" not in page


def test_a_record_of_another_guard_is_not_placed_among_these_scores(
    browser: httpx.Client, server: Served
) -> None:
    old = replace(record(1, "ab" * 8), predicted_name=None)
    server.state.records.add([old])
    page = browser.get(f"/records/{old.id}").text
    assert "Another version of the guard scored it" in page
    assert 'class="chart"' not in page and "class 1" in page


def test_the_page_on_the_guard_says_what_it_is(
    browser: httpx.Client, server: Served, examples_guard: Guard
) -> None:
    text = Checked(browser.get("/guard").text).text
    manifest = examples_guard.manifest()
    assert manifest.calibration is not None
    assert manifest.classifier.weights_hash in text
    assert server.state.engine.guard_version in text
    assert f"{manifest.calibration.threshold:.6g}" in text
    assert "at most 5% of in-distribution images flagged, with 90% confidence" in text
    assert "No alarm after 0 images" in text
    assert "low_relevance_neurons" in text


def test_an_alarm_is_on_every_page(browser: httpx.Client, server: Served) -> None:
    server.state.drift.update([1 / 121] * 400, [True] * 400)
    for path in ("/", "/queue", "/guard"):
        assert "Drift alarm." in browser.get(path).text


def test_names_of_classes_are_shown_as_text(tmp_path: Path) -> None:
    with (
        served(
            tmp_path, guard_with_examples(HOSTILE), keep_thumbnails=True, keep_images=True
        ) as server,
        httpx.Client(base_url=server.address, timeout=60) as client,
    ):
        shown = [dropped(client, usual_picture(seed)).text for seed in range(3)]
        (found, *_) = server.state.records.queue(ALL).records
        paths = ("/queue?verdict=all", "/guard", f"/records/{found.id}")
        shown += [client.get(path).text for path in paths]
        for page in shown:
            Checked(page)
            assert "<script>alert" not in page and "\u202e" not in page
        assert any("&lt;script&gt;alert" in page for page in shown)


def test_pages_run_only_the_script_of_the_server_and_load_nothing_else(
    browser: httpx.Client, server: Served
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
    browser: httpx.Client, server: Served
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


def test_the_pages_ask_for_the_token_once(examples_guard: Guard, tmp_path: Path) -> None:
    token = "correct horse battery staple"
    with (
        served(tmp_path, examples_guard, token=token) as server,
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
    with served(tmp_path, examples_guard, token="secret") as server:
        sent = {"Cookie": f"{COOKIE}={cookie}".encode()}
        assert httpx.get(f"{server.address}/queue", headers=sent).status_code == 303


def test_until_the_guard_is_loaded_pages_say_so(tmp_path: Path) -> None:
    with served(tmp_path, None) as server:
        for path in ("/", "/queue", "/guard"):
            answer = httpx.get(server.address + path)
            assert answer.status_code == 503
            assert "still being loaded" in answer.text and "retry-after" in answer.headers


def test_the_chart_marks_threshold_and_image_to_scale() -> None:
    chart = str(calibration_chart([0.0, 1.0, 2.0, 3.0, 4.0], threshold=3.0, score=2.0))
    threshold, image = (
        float(re.search(rf'<line class="{kind}" x1="([\d.]+)"', chart)[1])  # type: ignore[index]
        for kind in ("threshold", "image-mark inside")
    )
    grid = {
        text: float(x)
        for x, text in re.findall(
            r'<text x="([\d.]+)" y="171" text-anchor="middle">(\d)</text>', chart
        )
    }
    assert threshold - image == pytest.approx((grid["4"] - grid["2"]) / 2, abs=0.2)
    assert image == grid["2"]


def test_a_score_far_off_is_marked_at_the_edge() -> None:
    chart = str(calibration_chart([0.0, 1.0, 2.0], threshold=1.5, score=1e6))
    assert "this image →" in chart and 'class="image-mark"' in chart


def test_a_class_with_a_threshold_of_its_own_is_compared_with_its_own_images() -> None:
    predictions = torch.tensor([0] * 40 + [1] * 60)
    scores = torch.cat([torch.arange(40) / 40, 10 + torch.arange(60) / 60])
    calibration = Calibration(scores, predictions, 2, Promise(0.05, "average", per_class=True))
    shown = record(1, "a" * 16, predicted_class=0, predicted_name="polyp", score=5.0)
    place = Place.of(shown, calibration, "a" * 16)
    assert "those of all 40 calibration images predicted polyp" in place.position


@pytest.mark.parametrize(
    ("p_value", "frequency"),
    [
        (1.0, "Of 100 ordinary images"),
        (0.64, "about 64 or fewer"),
        (0.012, "Of 1,000 ordinary images, like those the guard was calibrated on, about 12 or"),
        (1 / 2001, "Of 10,000 ordinary images, like those the guard was calibrated on, about 5 or"),
    ],
)
def test_a_p_value_is_said_as_a_frequency(p_value: float, frequency: str) -> None:
    assert frequency in p_value_in_words(p_value)


def _charts(page: Checked) -> list[dict[str, str | None]]:
    return [svg for svg in page.all("svg") if svg.get("aria-hidden") != "true"]
