"""The queue of flagged records, and what is decided there, without scripts."""

from __future__ import annotations

import re

import httpx
import pytest

from neroli.serve.filters import Filters
from reviewing import decided, dropped, filled, record, unusual_picture
from serving import Client

ALL = Filters(flagged=False)


def items(page: str) -> list[str]:
    """The ids of the records that a page of the queue shows, in its order."""
    return re.findall(r'<li class="item" id="item-([0-9a-f]{32})">', page)


def test_the_queue_shows_every_flagged_record_once(server: Client, browser: httpx.Client) -> None:
    ids = filled(server, 60)
    seen, address = [], "/queue"
    while address:
        page = browser.get(address).text
        seen += items(page)
        following = re.search(r'<a href="([^"]*)" rel="next">', page)
        address = following[1].replace("&amp;", "&") if following else ""
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
    server: Client, browser: httpx.Client, query: str, wanted: list[int]
) -> None:
    ids = filled(server, 5)
    server.state.records.decide(ids[0], "fine")
    passed = record(5, server.state.engine.guard_version, is_ood=False)
    server.state.records.add([passed])
    assert items(browser.get(f"/queue?{query}").text) == [[*ids, passed.id][n] for n in wanted]


@pytest.mark.parametrize(
    "query",
    [
        "verdict=none",
        "order=worst",
        "predicted=x",
        f"predicted={9:05000}",
        f"predicted={'9' * 5000}",
        "since=yesterday",
        "after=nonsense",
        f"after=0.1:0.1:{'9' * 5000}",
    ],
)
def test_filters_that_cannot_be_are_refused(
    browser: httpx.Client, server: Client, query: str
) -> None:
    answer = browser.get(f"/queue?{query}")
    assert answer.status_code == 400
    assert 'role="alert"' in answer.text and len(answer.text) < 5000
    if not query.startswith("after"):
        (identity,) = filled(server, 1)
        answer = decided(browser, identity, decision="fine", back=query)
        assert answer.status_code == 400 and 'role="alert"' in answer.text
        assert server.state.records.decisions().decided == 0


def test_a_decision_and_its_note_stay_and_can_be_taken_back(
    server: Client, browser: httpx.Client
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


def test_the_script_is_given_the_parts_that_changed(server: Client, browser: httpx.Client) -> None:
    first, _ = filled(server, 2)
    part = decided(browser, first, decision="ood", part="1")
    assert part.status_code == 200
    assert f'id="decision-{first}"' in part.text and 'id="summary"' in part.text
    assert "1 really OOD" in part.text and "<html" not in part.text


def test_a_form_leads_nowhere_else(server: Client, browser: httpx.Client) -> None:
    (first,) = filled(server, 1)
    for back in ("//evil.example/", "https://evil.example", "order=newest\r\nSet-Cookie: a=b"):
        answer = decided(browser, first, decision="ood", back=back)
        assert answer.headers.get("location", "/queue").startswith("/queue")
        assert "set-cookie" not in answer.headers


def test_forms_of_other_sites_change_nothing(server: Client, browser: httpx.Client) -> None:
    (first,) = filled(server, 1)
    assert decided(browser, first, decision="ood", token="guessed").status_code == 400
    assert dropped(browser, unusual_picture(), token="guessed").status_code == 400
    records = server.state.records.queue(ALL).records
    assert [(one.id, one.decision) for one in records] == [(first, None)]


def test_nothing_is_decided_from_a_form_that_is_not_understood(
    server: Client, browser: httpx.Client
) -> None:
    (first,) = filled(server, 1)
    assert decided(browser, first, decision="ood", back="order=worst").status_code == 400
    assert server.state.records.get(first).decision is None


def test_what_cannot_be_decided_is_refused(server: Client, browser: httpx.Client) -> None:
    (first,) = filled(server, 1)
    assert decided(browser, first, decision="perhaps").status_code == 400
    assert decided(browser, first, decision="ood", note="x" * 3000).status_code == 400
    assert decided(browser, "f" * 32, decision="ood").status_code == 404
    assert browser.get(f"/records/{'f' * 32}").status_code == 404
