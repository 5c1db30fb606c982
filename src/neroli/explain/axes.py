"""What charts as SVG are made of: axes, lines and marks, for light and dark pages.

Colours and line styles are classes of the page's style sheet; all text in a chart is escaped.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Frame:
    """The area of a chart that holds the data, in pixels, and what its axes run over."""

    left: float
    top: float
    width: float
    height: float
    across: tuple[float, float]
    up: tuple[float, float]

    def __call__(self, x: float, y: float) -> tuple[float, float]:
        """Where a point lies; beyond the axes, at their ends."""
        right = _within(x, *self.across) * self.width
        above = _within(y, *self.up) * self.height
        return round(self.left + right, 1), round(self.top + self.height - above, 1)

    def path(self, across: Iterable[float], up: Iterable[float]) -> str:
        """The line through some points."""
        points = [self(x, y) for x, y in zip(across, up, strict=True)]
        return "M" + "L".join(f"{x:g} {y:g}" for x, y in points)

    def steps(self, edges: Array, heights: Array) -> str:
        """The outline of bars that stand side by side."""
        (start, floor), path = self(edges[0], self.up[0]), ""
        for end, height in zip(edges[1:], heights, strict=True):
            x, y = self(end, height)
            path += f"V{y:g}H{x:g}"
        return f"M{start:g} {floor:g}{path}V{floor:g}"

    def box(self) -> Markup:
        return Markup('<rect class="box" x="{}" y="{}" width="{}" height="{}"></rect>').format(
            self.left, self.top, self.width, self.height
        )

    def horizontal_ticks(self, ticks: Iterable[tuple[float, str]]) -> Iterable[Markup]:
        bottom = self.top + self.height
        for value, text in ticks:
            x, _ = self(value, self.up[0])
            yield line("grid", x, self.top, x, bottom)
            yield label(x, bottom + 15, text, "middle")

    def vertical_ticks(self, ticks: Iterable[tuple[float, str]]) -> Iterable[Markup]:
        for value, text in ticks:
            _, y = self(self.across[0], value)
            yield line("grid", self.left, y, self.left + self.width, y)
            yield label(self.left - 6, y + 4, text, "end")

    def titles(self, across: str, up: str) -> Iterable[Markup]:
        middle = self.top + self.height / 2
        yield label(self.left + self.width / 2, self.top + self.height + 34, across, "middle")
        yield Markup(
            '<text x="11" y="{0}" text-anchor="middle" transform="rotate(-90 11 {0})">{1}</text>'
        ).format(middle, up)


def svg(width: float, height: float, title: str, parts: Iterable[Markup]) -> Markup:
    """A chart, with the title for those who hear it."""
    return Markup(
        '<svg class="chart" viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>'
    ).format(width, height, title, Markup("").join(parts))


def path_of(kind: str, path: str) -> Markup:
    """A path of a class of the style sheet."""
    return Markup('<path class="{}" d="{}"></path>').format(kind, path)


def line(kind: str, x1: float, y1: float, x2: float, y2: float) -> Markup:
    """A straight line of a class of the style sheet."""
    return Markup('<line class="{}" x1="{:g}" y1="{:g}" x2="{:g}" y2="{:g}"></line>').format(
        kind, x1, y1, x2, y2
    )


def label(x: float, y: float, text: str, anchor: str) -> Markup:
    """A short text, "start", "middle" or "end" of it at the point."""
    return Markup('<text x="{:g}" y="{:g}" text-anchor="{}">{}</text>').format(x, y, anchor, text)


def _within(value: float, low: float, high: float) -> float:
    """Where a value lies between two others, 0 to 1."""
    return (min(high, max(low, value)) - low) / (high - low)


def tidy_above(value: float) -> float:
    """A round number at or above another, for an axis to end at."""
    power = 10.0 ** np.floor(np.log10(value))
    return float(
        next(step * power for step in (1, 1.6, 2, 3, 4, 6, 8, 10) if step * power >= value)
    )


def round_between(low: float, high: float) -> list[tuple[float, str]]:
    """Two to five round numbers from low to high, as numbers and as text."""
    power = 10.0 ** np.floor(np.log10((high - low) / 2))
    step = next(s * power for s in (5, 2, 1) if s * power <= (high - low) / 2)
    ticks = step * np.arange(np.ceil(low / step), np.floor(high / step) + 1) + 0.0  # no -0
    digits = max(4, int(np.ceil(np.log10(np.abs(ticks).max() / step))) + 1)  # to tell them apart
    return [(float(tick), f"{tick:.{digits}g}".replace("-", "\N{MINUS SIGN}")) for tick in ticks]
