"""What a detector says of itself: paper, hyper-parameters, and what it takes for granted."""

from __future__ import annotations

from dataclasses import MISSING, Field, dataclass, field
from typing import Any

from neroli.errors import InvalidInput


@dataclass(frozen=True)
class Paper:
    """Where a method was published.

    Args:
        authors: the first author, "et al." if there are more.
        year: of publication.
        venue: conference or journal; "" for a preprint.
        arxiv: its number; "" if it is not there.
        title: of the paper.
    """

    authors: str
    year: int
    venue: str = ""
    arxiv: str = ""
    title: str = ""

    @property
    def url(self) -> str:
        """Where it can be read; empty if it is not on arXiv."""
        return f"https://arxiv.org/abs/{self.arxiv}" if self.arxiv else ""

    def __str__(self) -> str:
        return f"{self.authors}, {self.venue or 'preprint'} {self.year}"


@dataclass(frozen=True)
class Limits:
    """Between which values a hyper-parameter may lie; the ends count unless they are excluded."""

    low: float = float("-inf")
    high: float = float("inf")
    excluded: bool = False

    def allow(self, value: float) -> bool:
        """Whether a value lies inside; infinity and NaN never do."""
        if self.excluded:
            return self.low < value < self.high
        return self.low <= value <= self.high and abs(value) < float("inf")

    def __str__(self) -> str:
        if self.high == float("inf"):
            return f"{'above' if self.excluded else 'at least'} {self.low:g}"
        return f"{self.low:g} to {self.high:g}{', both excluded' if self.excluded else ''}"


def parameter(
    default: Any,
    meaning: str,
    *,
    at_least: float | None = None,
    above: float | None = None,
    within: tuple[float, float] | None = None,
    between: tuple[float, float] | None = None,
) -> Any:
    """A hyper-parameter: a dataclass field with its meaning and the values it may take.

    Args:
        default: the paper's value.
        meaning: what it does, a phrase.
        at_least, above: its smallest value, or the largest that is too small.
        within, between: its smallest and largest value, or the values it must lie between.
    """
    limits = None
    if at_least is not None:
        limits = Limits(at_least)
    elif above is not None:
        limits = Limits(above, excluded=True)
    elif within is not None:
        limits = Limits(*within)
    elif between is not None:
        limits = Limits(*between, excluded=True)
    return field(default=default, metadata={"meaning": meaning, "limits": limits})


@dataclass(frozen=True)
class Hyperparameter:
    """A hyper-parameter as the documentation shows it."""

    name: str
    default: Any
    meaning: str
    limits: Limits | None

    @classmethod
    def of(cls, declared: Field[Any]) -> Hyperparameter:
        """Of a dataclass field."""
        default = None if declared.default is MISSING else declared.default
        metadata = declared.metadata
        return cls(declared.name, default, metadata.get("meaning", ""), metadata.get("limits"))

    def check(self, value: Any) -> None:
        """Raise InvalidInput if the value lies outside of the limits; None is not checked."""
        if self.limits is None or value is None or self.limits.allow(value):
            return
        raise InvalidInput(f"{self.name} must be {self.limits}, got {value}.")


def setting(value: Any) -> str:
    """The value of a hyper-parameter in words; of a detector, its name and what is set of it.

    Args:
        value: as ``Detector.hyperparameters`` has it.
    """
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(map(setting, value)) or "none"
    if isinstance(value, dict) and value.keys() == {"name", "hyperparameters"}:
        given = value["hyperparameters"].items()
        own = ", ".join(f"{name} {setting(one)}" for name, one in given if one is not None)
        return f"{value['name']} ({own})" if own else str(value["name"])
    return "not set" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
