"""The review pages in a browser: an image dropped in, the heat maps, and the queue by keyboard."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from neroli.serve.uploads import contents_of
from reviewing import filled, record, unusual_picture
from serving import Client, guard_with_examples, serving

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
if CHROMIUM is None:
    pytest.skip("no Chromium on this machine", allow_module_level=True)
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")


@pytest.fixture(scope="module")
def chromium() -> Iterator[playwright.Browser]:
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(chromium: playwright.Browser, server: Client) -> Iterator[playwright.Page]:
    """A page of which no request leaves the server, and whose console stays empty."""
    context = chromium.new_context(base_url=server.address)
    page = context.new_page()
    strays: list[str] = []
    page.on("request", lambda request: strays.append(request.url))
    page.on("console", lambda message: strays.append(f"console: {message.text}"))
    page.on("pageerror", lambda error: strays.append(f"error: {error}"))
    yield page
    context.close()
    assert [it for it in strays if not it.startswith((server.address, "data:"))] == []


@pytest.fixture
def queue(server: Client) -> list[str]:
    """The ids of three flagged records, the most unusual first."""
    return filled(server, 3)


def drop(page: playwright.Page) -> None:
    page.goto("/")
    page.set_input_files(
        "#image", {"name": "Doe_Jane.png", "mimeType": "image/png", "buffer": unusual_picture()}
    )
    page.wait_for_selector(".result")


def opacity(page: playwright.Page, kind: str) -> str:
    return page.eval_on_selector(f".stack .{kind}", "image => getComputedStyle(image).opacity")


def test_an_image_chosen_is_scored_and_its_name_stays_in_the_browser(
    page: playwright.Page, server: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[bytes] = []

    def noted(body: bytes, *others: Any) -> list[bytes]:
        sent.append(body)
        return contents_of(body, *others)

    monkeypatch.setattr("neroli.serve.pages.contents_of", noted)
    drop(page)
    assert page.inner_text("#result-title").startswith("Doe_Jane.png")
    assert "out of distribution" in page.inner_text("#result-title")
    assert unusual_picture() in sent[0] and b"Doe" not in sent[0]
    assert page.evaluate("document.activeElement.id") == "result"
    assert len(server.state.records.queue().records) == 1


def test_an_image_dropped_anywhere_on_the_page_is_scored(page: playwright.Page) -> None:
    page.goto("/")
    page.evaluate(
        """bytes => {
            const dropped = new DataTransfer();
            dropped.items.add(new File([new Uint8Array(bytes)], "x.png"));
            document.body.dispatchEvent(
                new DragEvent("drop", { dataTransfer: dropped, bubbles: true, cancelable: true }));
        }""",
        list(unusual_picture()),
    )
    page.wait_for_selector(".result")


def test_the_slider_blends_picture_and_map(page: playwright.Page) -> None:
    drop(page)
    page.focus("#opacity")
    page.keyboard.press("Home")
    assert opacity(page, "prediction") == "0"
    assert page.inner_text(".blend output") == "0%"
    page.keyboard.press("End")
    assert opacity(page, "prediction") == "1"
    page.keyboard.press("ArrowLeft")
    assert opacity(page, "prediction") == opacity(page, "deviation") == "0.95"


def test_the_maps_are_switched_by_keyboard(page: playwright.Page) -> None:
    drop(page)
    assert page.is_visible(".stack .prediction") and not page.is_visible(".stack .deviation")
    page.focus("[name=map][value=prediction]")
    page.keyboard.press("ArrowDown")
    assert page.is_visible(".stack .deviation") and not page.is_visible(".stack .prediction")
    assert page.is_visible(".caption.deviation") and not page.is_visible(".caption.prediction")
    assert page.is_visible(".stack .picture")


def test_what_is_no_image_is_said_in_the_page(chromium: playwright.Browser, server: Client) -> None:
    page = chromium.new_page(base_url=server.address)
    page.goto("/")
    page.set_input_files("#image", {"name": "a.png", "mimeType": "image/png", "buffer": b"no"})
    page.wait_for_selector("#result [role=alert]")
    page.set_input_files("#image", {"name": "b.png", "mimeType": "", "buffer": unusual_picture()})
    page.wait_for_selector(".result")
    assert page.query_selector("[role=alert]") is None
    page.close()


def test_images_are_decided_by_keyboard_and_stay_so(
    page: playwright.Page, server: Client, queue: list[str]
) -> None:
    page.goto("/queue")
    for key in ("j", "j", "j", "k"):
        page.keyboard.press(key)
    page.keyboard.press("f")
    page.wait_for_selector(f"#decision-{queue[1]} [value=fine][aria-pressed=true]")
    assert "1 actually fine" in page.inner_text("#summary")
    assert "actually fine" in page.inner_text("#said")
    page.keyboard.press("k")
    page.keyboard.press("n")
    page.keyboard.type("jfok: a bubble")
    page.keyboard.press("Enter")
    page.wait_for_selector(f"#item-{queue[0]} a.open:focus")
    page.keyboard.press("o")
    page.wait_for_selector(f"#decision-{queue[0]} [value=ood][aria-pressed=true]")
    page.reload()
    assert page.is_visible(f"#decision-{queue[0]} [value=ood][aria-pressed=true]")
    assert page.input_value(f"#note-{queue[0]}") == "jfok: a bubble"
    assert page.is_visible(f"#decision-{queue[1]} [value=fine][aria-pressed=true]")
    found = [server.state.records.get(one) for one in queue]
    assert [one.decision for one in found] == ["ood", "fine", None]


def test_enter_opens_and_shortcuts_can_be_switched_off(
    page: playwright.Page, queue: list[str]
) -> None:
    page.goto("/queue")
    page.click(".keys summary")
    page.uncheck("#shortcuts")
    page.keyboard.press("j")
    assert page.evaluate("document.activeElement.closest('.item')") is None
    page.check("#shortcuts")
    page.keyboard.press("j")
    page.keyboard.press("Enter")
    page.wait_for_url(f"**/records/{queue[0]}")


def test_a_decision_that_cannot_be_saved_is_said(
    chromium: playwright.Browser, server: Client, queue: list[str]
) -> None:
    page = chromium.new_page(base_url=server.address)
    page.goto("/queue")
    full = '{"error": {"message": "The disk is full."}}'
    page.route(
        "**/decision",
        lambda route: route.fulfill(status=503, content_type="application/json", body=full),
    )
    page.keyboard.press("j")
    page.keyboard.press("o")
    page.wait_for_selector("#said:not(:empty)")
    assert page.inner_text("#said") == "Not saved. The disk is full."
    assert page.query_selector("[aria-pressed=true]") is None
    page.close()


def test_a_kept_image_is_explained_on_its_own_page(page: playwright.Page, server: Client) -> None:
    drop(page)
    (shown,) = server.state.records.queue().records
    page.goto(f"/records/{shown.id}")
    page.wait_for_selector(".viewer")
    assert page.is_visible(".blend")
    assert "Which neurons" in page.inner_text("#more")


def test_why_a_kept_image_is_not_explained_is_said(
    chromium: playwright.Browser, server: Client
) -> None:
    page = chromium.new_page(base_url=server.address)
    server.post("/v1/score", files={"image": unusual_picture()})
    (found,) = server.state.records.queue().records
    refused = {"status": 503, "content_type": "text/html", "body": "<p role=alert>Too many.</p>"}
    page.route("**/explanation", lambda route: route.fulfill(**refused))
    page.goto(f"/records/{found.id}")
    page.wait_for_selector("text=Too many.")
    assert page.inner_text("#why [data-wait]") == "Explain this image (Too many.)"
    page.close()


@pytest.mark.parametrize("width", [400, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_page_is_wider_than_the_window(
    chromium: playwright.Browser, tmp_path: Path, width: int, scheme: str
) -> None:
    names = ["<script>alert(1)</script>" * 4, "\u05d0\u05d1 x", "x" * 150]
    with serving(tmp_path, guard=guard_with_examples(names)) as server:
        guard = server.state.engine.guard_version
        server.state.records.add([record(n, guard, predicted_name=names[n % 3]) for n in range(3)])
        server.state.records.decide("0" * 32, "fine", "n" * 500)
        page = chromium.new_page(
            base_url=server.address,
            viewport={"width": width, "height": 800},
            color_scheme=scheme,
        )
        for path in ("/", "/queue", f"/records/{'0' * 32}", "/guard", "/login"):
            page.goto(path)
            assert page.evaluate("document.documentElement.scrollWidth") <= width, path
        drop(page)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        page.close()


def test_deciding_works_without_scripts(
    chromium: playwright.Browser, server: Client, queue: list[str]
) -> None:
    context = chromium.new_context(base_url=server.address, java_script_enabled=False)
    page = context.new_page()
    page.goto("/queue?order=oldest")
    page.fill(f"#note-{queue[2]}", "blurred")
    page.click(f"#decision-{queue[2]} [value=ood]")
    assert page.url.endswith("order=oldest")
    assert page.is_visible(f"#decision-{queue[2]} [value=ood][aria-pressed=true]")
    page.goto("/")
    page.set_input_files(
        "#image", {"name": "a.png", "mimeType": "image/png", "buffer": unusual_picture()}
    )
    page.click("[data-plain]")
    page.check("[value=deviation]")
    assert page.is_visible(".stack .deviation") and not page.is_visible(".stack .prediction")
    context.close()
