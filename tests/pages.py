"""What is to be held of every page of HTML that neroli writes."""

from __future__ import annotations

from html.parser import HTMLParser

VOID = {"meta", "img", "br", "link", "hr", "input"}


class Checked(HTMLParser):
    """Refuses tags that do not match, and notes all there are."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.source = page
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(page)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def assert_holds_all(page: Checked) -> None:
    """It runs nothing, loads nothing and leads nowhere else, and has no control characters."""
    names = {name for name, _ in page.tags}
    assert not names & {"script", "link", "iframe", "object", "embed", "base", "form"}
    for name, attributes in page.tags:
        for key, value in attributes.items():
            assert not key.startswith("on")
            if key == "src":
                assert name == "img"
                assert str(value).startswith(("data:image/png;base64,", "data:image/jpeg;base64,"))
            if key == "href":
                assert str(value).startswith("#")
    assert {
        "http-equiv": "Content-Security-Policy",
        "content": "default-src 'none'; img-src data:; style-src 'unsafe-inline'",
    } in page.all("meta")
    assert "http://" not in page.source and "https://" not in page.source
    assert "url(" not in page.source
    assert "\x00" not in page.source and "\x1b" not in page.source


def assert_can_be_heard(page: Checked) -> None:
    """What is seen has words for those who hear it, and links lead somewhere."""
    assert page.all("html")[0]["lang"] == "en"
    assert all(image["alt"] for image in page.all("img"))
    assert all(
        svg.get("aria-hidden") == "true" or (svg["role"] == "img" and svg["aria-label"])
        for svg in page.all("svg")
    )
    assert all("scope" in heading for heading in page.all("th"))
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(set(ids)) == len(ids)
    assert {str(link["href"])[1:] for link in page.all("a")} <= set(ids)
