"""Charts of a benchmark as SVG: ROC curves and distributions of scores, for light and dark pages.

Colours and line styles are classes of the page's style sheet; all text in a chart is escaped.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from neroli.benchmark.results import Estimate
from neroli.errors import InvalidInput
from neroli.explain.axes import Array, Frame, line, path_of, round_between, svg, tidy_above

STYLES = 5
"""Line styles in the style sheet, each with its own colour and dashes."""
_BINS = 32
_POINTS = 64
_REACH = 6.0
_TAIL = 0.005
"""Share of images on either side that is gathered in the outermost bin."""


@dataclass(frozen=True, eq=False)
class Curves:
    """What charts show of one detector on one OOD set.

    Attributes:
        edges: of the bins, ``[33]`` in units of the score.
        id_share, ood_share: of the ID and of the OOD images in each bin, ``[32]`` fractions; what
            lies beyond the edges is in the outermost bins.
        false_alarms, detected: share of ID and of OOD images that score at least as high as each
            of at most 64 thresholds, from (0, 0) to (1, 1).
        threshold: above which images are flagged; None if there is none.
    """

    edges: Array
    id_share: Array
    ood_share: Array
    false_alarms: Array
    detected: Array
    threshold: float | None = None

    @classmethod
    def of(cls, id_scores: Any, ood_scores: Any, threshold: float | None = None) -> Curves:
        """The curves of ID ``[N]`` and OOD ``[M]`` scores, higher = more OOD.

        Raises:
            InvalidInput: if scores are empty, not one-dimensional or not finite.
        """
        inside, outside = (_checked(scores) for scores in (id_scores, ood_scores))
        edges = _edges(inside, outside)
        thresholds = np.unique(np.concatenate([inside, outside]))[::-1]
        false_alarms, detected = (
            np.concatenate([[0.0], 1 - np.searchsorted(np.sort(scores), thresholds) / len(scores)])
            for scores in (inside, outside)
        )
        kept = _evenly_along(false_alarms + detected)
        return cls(
            edges,
            _shares(inside, edges),
            _shares(outside, edges),
            false_alarms[kept],
            detected[kept],
            threshold,
        )


def roc_chart(curves: Sequence[Curves], title: str) -> Markup:
    """ROC curves of at most five detectors, the first on top, in the order of the line styles."""
    left, top, width, height = 52, 10, 300, 300
    at = Frame(left, top, width, height, (0, 1), (0, 1))
    marks = [0, 0.2, 0.4, 0.6, 0.8, 1]
    return svg(
        left + width + 14,
        top + height + 46,
        title,
        [
            *at.horizontal_ticks((mark, f"{100 * mark:.0f}") for mark in marks),
            *at.vertical_ticks((mark, f"{100 * mark:.0f}") for mark in marks),
            line("chance", *at(0, 0), *at(1, 1)),
            line("limit", *at(0.05, 0), *at(0.05, 1)),
            *at.titles("ID images flagged (false alarms), %", "OOD images flagged, %"),
            *reversed([path_of(f"roc s{place}", at.path(each.false_alarms, each.detected))
                       for place, each in enumerate(curves)]),
        ],
    )  # fmt: skip


def distribution_chart(curves: Curves, title: str) -> Markup:
    """How the scores of ID and of OOD images are spread, with axes."""
    left, top, width, height = 40, 8, 222, 92
    most = tidy_above(100 * max(curves.id_share.max(), curves.ood_share.max()))
    at = Frame(left, top, width, height, (curves.edges[0], curves.edges[-1]), (0, most / 100))
    return svg(
        left + width + 10,
        top + height + 40,
        title,
        [
            *at.horizontal_ticks(round_between(*at.across)),
            *at.vertical_ticks((v / 100, f"{v:g}") for v in (0, most / 2, most)),
            *_distributions(curves, at),
            *at.titles("score", "images, %"),
        ],
    )  # fmt: skip


def small_charts(curves: Curves, title: str) -> Markup:
    """Distributions and ROC curve side by side, small and without marks on the axes."""
    most = max(curves.id_share.max(), curves.ood_share.max())
    spread = Frame(2, 2, 150, 70, (curves.edges[0], curves.edges[-1]), (0, most))
    roc = Frame(166, 2, 70, 70, (0, 1), (0, 1))
    return svg(
        238,
        74,
        title,
        [
            spread.box(),
            *_distributions(curves, spread),
            roc.box(),
            line("chance", *roc(0, 0), *roc(1, 1)),
            path_of("roc s0", roc.path(curves.false_alarms, curves.detected)),
        ],
    )


def interval_mark(estimate: Estimate, low: float, high: float) -> Markup:
    """A value and its interval as a dot on a line, on an axis from ``low`` to ``high``."""
    at = Frame(4, 0, 112, 14, (low, high), (0, 1))
    ends = (at(estimate.low, 0.5), at(estimate.high, 0.5))
    x, y = at(estimate.value, 0.5)
    return Markup(
        '<svg class="interval" viewBox="0 0 120 14" width="120" height="14" aria-hidden="true">'
        '{}{}<circle class="alike" cx="{:g}" cy="{:g}" r="3.5"></circle></svg>'
    ).format(line("grid", *at(low, 0.5), *at(high, 0.5)), line("alike", *ends[0], *ends[1]), x, y)


def sample(place: int) -> Markup:
    """A short piece of the line of a style, for a legend."""
    return Markup(
        '<svg class="sample" viewBox="0 0 34 10" width="34" height="10" aria-hidden="true">'
        '<path class="roc s{}" d="M1 5H33"></path></svg>'
    ).format(place)


def _distributions(curves: Curves, at: Frame) -> Iterable[Markup]:
    yield path_of("id", at.steps(curves.edges, curves.id_share))
    yield path_of("ood", at.steps(curves.edges, curves.ood_share))
    if curves.threshold is not None:
        x, bottom = at(curves.threshold, at.up[0])
        yield line("threshold", x, at.top, x, bottom)


def _checked(scores: Any) -> Array:
    array = np.asarray(scores, dtype=np.float64)
    if array.ndim != 1 or len(array) == 0:
        raise InvalidInput(f"Scores must be a non-empty [N], got shape {list(array.shape)}.")
    if not np.isfinite(array).all():
        raise InvalidInput("Scores hold NaN or infinity: there is no chart of them.")
    return array


def _edges(inside: Array, outside: Array) -> Array:
    """Of bins over the middle 99 % of both, less of those with far outliers."""
    ends = np.array([_ends(scores) for scores in (inside, outside)])
    low, high = float(ends.min()), float(ends.max())
    if high - low <= 1e-9 * max(abs(low), abs(high)):  # all but equal
        margin = 0.5 * abs(low) or 0.5
        low, high = low - margin, high + margin
    return np.linspace(low, high, _BINS + 1)


def _ends(scores: Array) -> tuple[float, float]:
    """The middle 99 %, but not beyond some times the middle half: a few would squeeze the rest."""
    low, quarter, three_quarters, high = np.quantile(scores, [_TAIL, 0.25, 0.75, 1 - _TAIL])
    reach = _REACH * (three_quarters - quarter) or np.inf
    return max(low, quarter - reach), min(high, three_quarters + reach)


def _shares(scores: Array, edges: Array) -> Array:
    counts, _ = np.histogram(scores.clip(edges[0], edges[-1]), edges)
    return counts / len(scores)


def _evenly_along(length: Array) -> NDArray[np.intp]:
    """Where to keep points of a curve so that about equal parts of it lie between them."""
    wanted = np.linspace(length[0], length[-1], _POINTS)
    return np.unique(np.searchsorted(length, wanted).clip(max=len(length) - 1))
