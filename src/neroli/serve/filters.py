"""Which records are shown, in what order, and where the next page begins."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from neroli.errors import InvalidInput
from neroli.serve.decisions import Decision
from neroli.serve.scored import Scored

Order = Literal["p_value", "newest", "oldest", "random"]
ORDERS: dict[Order, tuple[dict[str, type], str]] = {
    "p_value": ({"p_value": float, "-score": float}, ""),
    "newest": ({"at": float}, " DESC"),
    "oldest": ({"at": float}, ""),
    "random": ({"id": str}, ""),  # ids are drawn at random, so this order never changes
}
"""Of every order the columns that it goes by, and their direction."""
PAGE = 50
LARGEST_PAGE = 1000


@dataclass(frozen=True)
class Record(Scored):
    """One image that was scored, and what was decided of it.

    Attributes:
        row: number in order of arrival; never given twice.
        decision: "ood", "fine", or None.
        note: of who decided.
        decided_at: when, in seconds since 1970 (UTC); None without a decision.
    """

    row: int
    decision: Decision | None = None
    note: str = ""
    decided_at: float | None = None


@dataclass(frozen=True)
class Page:
    """Some records, and where the next ones begin; ``next`` is None on the last page."""

    records: tuple[Record, ...]
    next: str | None


@dataclass(frozen=True)
class Filters:
    """Which records are wanted, and in what order.

    Args:
        flagged: only flagged images; otherwise all.
        undecided, decided: only images without a decision, or only images with one.
        guard: version; None for all.
        predicted_class: None for all.
        since, until: times in seconds since 1970 (UTC), since <= at < until; None without limit.
        order: "p_value" (most unusual first, among equals by score), "newest", "oldest", or
            "random": reviewed from the start, a random sample, as an unbiased false-alarm rate
            needs it.

    Raises:
        InvalidInput: if there is no such order.
    """

    flagged: bool = True
    undecided: bool = False
    decided: bool = False
    guard: str | None = None
    predicted_class: int | None = None
    since: float | None = None
    until: float | None = None
    order: Order = "p_value"

    def __post_init__(self) -> None:
        if self.order not in ORDERS:
            raise InvalidInput(f"order must be one of {', '.join(ORDERS)}, got {self.order!r}.")

    def query(self, size: int, after: str | None) -> tuple[str, list[Any]]:
        """The query of one page and one record more, and its values.

        Raises:
            InvalidInput: if the size is out of range, or ``after`` is not of a page in this order.
        """
        if not 1 <= size <= LARGEST_PAGE:
            raise InvalidInput(f"A page has 1 to {LARGEST_PAGE} records, got {size}.")
        limits = {
            "guard = ?": self.guard,
            "predicted_class = ?": self.predicted_class,
            "at >= ?": self.since,
            "at < ?": self.until,
        }
        columns, direction = ORDERS[self.order]
        terms = ["is_ood = 1"] * self.flagged + ["decision IS NULL"] * self.undecided
        terms += ["decision IS NOT NULL"] * self.decided
        terms += [term for term, value in limits.items() if value is not None]
        values: list[Any] = [value for value in limits.values() if value is not None]
        if after is not None:
            marks = ", ".join("?" * (len(columns) + 1))
            terms.append(f"({', '.join(columns)}, row) {'<' if direction else '>'} ({marks})")
            values += self._position(after)
        where = f"WHERE {' AND '.join(terms)} " if terms else ""
        order = ", ".join(f"{column}{direction}" for column in [*columns, "row"])
        return f"{where}ORDER BY {order} LIMIT {size + 1}", values

    def page(self, records: list[Record], size: int) -> Page:
        """The page of what the query found."""
        shown = records[:size]
        if len(records) <= size:
            return Page(tuple(shown), None)
        last = shown[-1]
        position = (_value(last, column) for column in ORDERS[self.order][0])
        return Page(tuple(shown), ":".join(map(str, [*position, last.row])))

    def _position(self, after: str) -> list[Any]:
        try:
            types = [*ORDERS[self.order][0].values(), int]
            return [kind(text) for kind, text in zip(types, after.split(":"), strict=True)]
        except ValueError:
            raise InvalidInput(
                f"{after[:80]!r} is not where a page in the order {self.order!r} ends: start anew."
            ) from None


def _value(record: Record, column: str) -> Any:
    return -record.score if column == "-score" else getattr(record, column)
