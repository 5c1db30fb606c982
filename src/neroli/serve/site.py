"""What the review pages are filled with, from the state of the server."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from fastapi import Response
from fastapi.responses import HTMLResponse

from neroli.explain.page import templates
from neroli.serve import sessions
from neroli.serve.drift_page import alarm_text, drift_facts
from neroli.serve.guard_page import class_names, guard_page_facts
from neroli.serve.page_facts import ImageView, Place, summary
from neroli.serve.queue_page import LONGEST_NAME, SIZE, QueuePage
from neroli.serve.records import LONGEST_NOTE

if TYPE_CHECKING:
    from neroli.serve.decisions import Decisions
    from neroli.serve.state import State

_TITLES = {404: "Not found", 503: "Not now"}
_HEADERS = {"Referrer-Policy": "same-origin"}
"""Without a referrer, browsers say of forms that they come from nowhere, and they are refused."""
_UNKEPT = "Nothing of the picture is kept: this page holds it, and is gone when you leave it."
_KEPT = "The server keeps {} of every image it scores."


class Site:
    """What all pages share: the state they are made from, and their frame."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._guard: dict[str, Any] = {}

    def page(self, name: str, facts: Mapping[str, Any], here: str) -> Response:
        """A page of a template."""
        state = self._state
        frame = _frame(here) | {
            "may_leave": state.settings.token is not None,
            "alarm": alarm_text(state.drift),
        }
        return _rendered(name, {**facts, "site": frame})

    @staticmethod
    def login(refused: str = "", status: int = 200) -> Response:
        """The page that asks for the token."""
        facts = {"refused": refused, "token": sessions.FORM_TOKEN, "hours": sessions.HOURS}
        return _rendered("login.html", facts | {"site": None}, status)

    def home(self) -> dict[str, Any]:
        """The page to drop an image in, without one."""
        kept = self._state.settings
        what = " and ".join(
            ["a small picture"] * kept.keep_thumbnails + ["the whole picture"] * kept.keep_images
        )
        return {
            "kept": _KEPT.format(what) if what else _UNKEPT,
            "method": self._state.guard.detector.name,
            "calibration": f"{len(self._state.engine.calibration):,}",
            "result": False,
        }

    def guard(self) -> dict[str, Any]:
        """What is said of the guard, worked out once, and of drift."""
        if not self._guard:
            self._guard = guard_page_facts(self._state.guard, self._state.engine.guard_version)
        return self._guard | {"drift": drift_facts(self._state.drift)}

    def summary(self, guard: str) -> str:
        """What the decisions say of the threshold of a version, or of the guard that is served."""
        served = self._state.engine.guard_version
        found: Decisions = self._state.records.decisions(guard or served)
        rate = self._state.engine.calibration.promise.false_alarm_rate
        return summary(found, rate if found.guard == served else None)

    def queue(self, chosen: QueuePage) -> dict[str, Any]:
        """A part of the queue."""
        records = self._state.records
        found = records.queue(chosen.filters(), size=SIZE, after=chosen.after or None)
        return {
            "summary": self.summary(chosen.guard),
            "filters": chosen.choices(class_names(self._state.guard), records.guards()),
            "since": chosen.since,
            "items": [
                ImageView.of(one, records.picture(one.id, "thumbnail")) for one in found.records
            ],
            "nothing": chosen.nothing,
            "longest_name": LONGEST_NAME,
            "first": chosen.address(after="") if chosen.after else "",
            "following": chosen.address(after=found.next) if found.next else "",
            "back": chosen.address().partition("?")[2],
        }

    def record(self, identity: str) -> dict[str, Any]:
        """A record, unexplained."""
        records, engine = self._state.records, self._state.engine
        found = records.get(identity)
        kept = records.picture(identity, "image") is not None
        view = ImageView.of(found, records.picture(identity, "thumbnail"))
        place = Place.of(found, engine.calibration, engine.guard_version)
        return {
            "verdict": view,
            "place": place,
            "other_guard": found.guard != engine.guard_version,
            "explainable": kept,
            "explained": None,
            "refused": "",
            "back": "",
            "facts": [
                ("Scored", view.at),
                ("Record", found.id),
                ("Request", found.request),
                ("Content hash", found.content),
                ("Guard version", found.guard),
            ],
        }


def problem(status: int, reason: str, retry_after: float | None = None) -> Response:
    """A page that says why there is no other."""
    title = _TITLES.get(status, "That cannot be done")
    facts = {"title": title, "reason": reason, "site": _frame("")}
    answer = _rendered("problem.html", facts, status)
    if retry_after is not None:
        answer.headers["Retry-After"] = str(math.ceil(retry_after))
    return answer


def _frame(here: str) -> dict[str, Any]:
    """What stands around every page."""
    return {
        "here": here,
        "token": sessions.FORM_TOKEN,
        "may_leave": False,
        "alarm": "",
        "longest_note": LONGEST_NOTE,
    }


def _rendered(name: str, facts: Mapping[str, Any], status: int = 200) -> Response:
    content = templates("neroli.serve").get_template(name).render(facts)
    return HTMLResponse(content, status, _HEADERS)
