"""Which part of the queue a page shows, as its address says."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, urlencode

from neroli.errors import InvalidInput
from neroli.explain.facts import plain

if TYPE_CHECKING:
    from neroli.serve.filters import Filters

SIZE = 25
"""Images on a page."""
LONGEST_NAME = 60
"""Characters that are shown of a class's name in lists."""
_VERDICTS = {"flagged": "flagged", "all": "all images"}
_REVIEWS = {"all": "reviewed or not", "undecided": "not reviewed yet", "decided": "reviewed"}
_ORDERS = {
    "p_value": "most unusual",
    "newest": "newest",
    "oldest": "oldest",
    "random": "random",
}


@dataclass(frozen=True)
class Choice:
    """A filter with its options, each a value and a text."""

    name: str
    label: str
    chosen: str
    options: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class QueuePage:
    """What is chosen; an empty text for everything.

    Raises:
        InvalidInput: if a value is none that can be chosen.
    """

    verdict: str = "flagged"
    review: str = "all"
    order: str = "p_value"
    predicted: str = ""
    guard: str = ""
    since: str = ""
    after: str = ""

    def __post_init__(self) -> None:
        for name, known in (("verdict", _VERDICTS), ("review", _REVIEWS), ("order", _ORDERS)):
            if (value := getattr(self, name)) not in known:
                raise InvalidInput(f"{name} must be one of {', '.join(known)}, got {value[:20]!r}.")
        if self.predicted and not re.fullmatch("[0-9]{1,9}", self.predicted):
            raise InvalidInput(
                f"predicted must be the number of a class, got {self.predicted[:20]!r}."
            )
        self._since()

    @classmethod
    def of(cls, values: Mapping[str, str]) -> QueuePage:
        """Of the values in an address; others are ignored."""
        return cls(**{name: values[name] for name in cls.__dataclass_fields__ if name in values})

    @classmethod
    def at(cls, query: str) -> QueuePage:
        """Of the part of an address behind the question mark."""
        return cls.of(dict(parse_qsl(query)))

    def address(self, **changed: str) -> str:
        """Where such a page is; what is not filtered is left out."""
        values = {name: value for name, value in (asdict(self) | changed).items() if value}
        return f"/queue?{urlencode(values)}"

    def filters(self) -> Filters:
        """As the records take them."""
        from neroli.serve.filters import Filters

        return Filters(
            flagged=self.verdict == "flagged",
            undecided=self.review == "undecided",
            decided=self.review == "decided",
            guard=self.guard or None,
            predicted_class=int(self.predicted) if self.predicted else None,
            since=self._since(),
            order=self.order,  # type: ignore[arg-type]  # checked above
        )

    def choices(self, class_names: Sequence[str], guards: Sequence[str]) -> list[Choice]:
        """The filters to choose from.

        Args:
            class_names: of all classes.
            guards: versions that images were scored with.
        """
        classes = [
            (str(index), plain(name)[:LONGEST_NAME]) for index, name in enumerate(class_names)
        ]
        versions = [(version, version) for version in guards]
        return [
            Choice("verdict", "Verdict", self.verdict, [*_VERDICTS.items()]),
            Choice("review", "Review", self.review, [*_REVIEWS.items()]),
            Choice("order", "Order", self.order, [*_ORDERS.items()]),
            Choice("predicted", "Class", self.predicted, [("", "all classes"), *classes]),
            Choice("guard", "Guard", self.guard, [("", "all versions"), *versions]),
        ]

    @property
    def nothing(self) -> str:
        """What is said where nothing is found."""
        if self.predicted or self.guard or self.since:
            return "No image fits these filters."
        what = "image" if self.verdict == "all" else "flagged image"
        ends = {"all": "yet", "undecided": "left to review", "decided": "reviewed yet"}
        return f"There is no {what} {ends[self.review]}."

    def _since(self) -> float | None:
        if not self.since:
            return None
        try:
            return datetime.strptime(self.since, "%Y-%m-%d").replace(tzinfo=UTC).timestamp()
        except ValueError:
            raise InvalidInput(
                f"since must be a day such as 2026-01-31, got {self.since[:20]!r}."
            ) from None
