"""Charts of the review pages: where a score lies among the calibration scores, and drift."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from markupsafe import Markup

from neroli.explain.axes import Array, Frame, line, path_of, round_between, svg, tidy_above

_WIDTH, _LEFT, _RIGHT = 400, 40, 12
_BINS = 24
_TAIL = 0.005
"""Share of calibration images on either side that is gathered in the outermost bin."""


def calibration_chart(scores: Any, threshold: float, score: float | None = None) -> Markup:
    """How calibration scores ``[n]`` are spread, with the threshold and an image's score.

    A score so far off that the rest could not be seen is marked at the edge, with an arrow.
    """
    values: Array = np.asarray(scores, dtype=np.float64)
    low, high = _ends(values, threshold)
    span = high - low
    if score is not None:
        low, high = max(low - span, min(low, score)), min(high + span, max(high, score))
        margin = 0.03 * (high - low)
        low, high = low - margin * (score < low + margin), high + margin * (score > high - margin)
    edges = np.linspace(low, high, _BINS + 1)
    share = np.histogram(values.clip(low, high), edges)[0] / len(values)
    most = tidy_above(100 * share.max())
    at = Frame(_LEFT, 36, _WIDTH - _LEFT - _RIGHT, 120, (low, high), (0, most / 100))
    parts = [
        *at.horizontal_ticks(round_between(low, high)),
        *at.vertical_ticks((v / 100, f"{v:g}") for v in (0, most / 2, most)),
        path_of("id", at.steps(edges, share)),
        *_marked(at, "threshold", threshold, "threshold", 28),
        *at.titles("score (higher = more unusual)", "images, %"),
    ]
    heard = f"Scores of {len(values)} calibration images, threshold {threshold:.4g}"
    if score is not None:
        inside = "" if score > threshold else " inside"
        beyond = "" if low <= score <= high else " →" if score > high else " ←"
        parts += _marked(at, f"image-mark{inside}", score, f"this image{beyond}", 12)
        heard += f", this image {score:.4g}"
    return svg(_WIDTH, 194, heard, parts)


def level_chart(
    images: Sequence[float], levels: Sequence[float], limit: float, noun: str
) -> Markup:
    """How a level that raises an alarm at a limit went, image after image.

    Args:
        images: how many images had come, rising.
        levels: the level then, as many.
        limit: at which there is an alarm.
        noun: what the level is called.
    """
    low, high = min(0.0, *levels, limit), 1.1 * max(0.0, *levels, limit)
    first, last = (images[0], images[-1]) if images else (0, 0)
    across = (float(first), float(max(last, first + 1)))
    at = Frame(_LEFT + 8, 12, _WIDTH - _LEFT - 8 - _RIGHT, 110, across, (low, high or 1.0))
    parts = [
        *at.horizontal_ticks(
            (tick, text) for tick, text in round_between(*across) if tick == round(tick)
        ),
        *at.vertical_ticks(round_between(low, high or 1.0)),
        line("threshold", *at(across[0], limit), *at(across[1], limit)),
        _mark(at(across[0], limit)[0] + 4, at(across[0], limit)[1] - 5, "alarm limit", "start"),
    ]
    if images:
        parts.append(path_of("level", at.path(images, levels)))
        heard = f"{noun} after {last:g} images: {levels[-1]:.3g}, alarm limit {limit:.3g}"
    else:
        heard = f"{noun}: no images yet, alarm limit {limit:.3g}"
    return svg(_WIDTH, 162, heard, [*parts, *at.titles("images scored", noun)])


def _ends(values: Array, threshold: float) -> tuple[float, float]:
    """What the axis runs over: the middle 99 % of the scores, and the threshold."""
    low, high = (float(end) for end in np.quantile(values, [_TAIL, 1 - _TAIL]))
    low, high = min(low, threshold), max(high, threshold)
    if high - low <= 1e-9 * max(abs(low), abs(high)):  # all but equal
        margin = 0.5 * abs(low) or 0.5
        return low - margin, high + margin
    return low, high + 0.05 * (high - low)


def _marked(at: Frame, kind: str, value: float, text: str, y: float) -> list[Markup]:
    """An upright line at a value, with a word above it that stays in the frame."""
    x, bottom = at(value, 0)
    anchor = "start" if x < 90 else "end" if x > _WIDTH - 90 else "middle"
    return [line(kind, x, y + 4, x, bottom), _mark(x, y, text, anchor)]


def _mark(x: float, y: float, text: str, anchor: str) -> Markup:
    return Markup('<text class="mark" x="{:g}" y="{:g}" text-anchor="{}">{}</text>').format(
        x, y, anchor, text
    )
