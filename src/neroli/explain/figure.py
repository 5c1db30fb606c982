"""An explanation as one picture: image, heat maps, neurons beside what is usual, examples."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.gridspec import GridSpec

from neroli.explain import wording
from neroli.explain.facts import (
    KEEP_EXAMPLES,
    NeuronRow,
    VerdictBadge,
    neuron_rows,
    panels,
    plain,
)
from neroli.explain.pictures import BLUE_TO_RED

if TYPE_CHECKING:
    from neroli.explain.explanation import Explanation

_HERE, _USUAL = "#E69F00", "#0072B2"  # Okabe and Ito: safe for colour-blind eyes
_BARS = 10
_SHOWN = 9
"""Thumbnails in a row."""
_OF_NEURONS = 3
"""Of how many neurons examples are shown."""


def drawn(explanation: Explanation) -> Figure:
    """The explanation as a figure 1,200 pixels wide at 100 dots per inch.

    Args:
        explanation: of one image.
    """
    lines = _thumbnail_lines(explanation)
    heights = [4.4, 3.9, *(0.95 for _ in lines)]
    title = _title(explanation)
    head = 0.4 + 0.22 * title.count("\n")
    foot = 0.15 if lines else 0.4
    height = head + sum(heights) + foot
    figure = Figure(figsize=(12, height), dpi=100, facecolor="white")
    _write(figure, 0.5, 1 - 0.12 / height, title, ha="center", va="top", fontsize=12)
    grid = GridSpec(
        len(heights),
        36,
        figure=figure,
        height_ratios=heights,
        left=0.02,
        right=0.98,
        top=1 - head / height,
        bottom=foot / height,
        hspace=0,
        wspace=0,
    )
    _pictures(figure, grid, explanation)
    _neurons(figure.add_subplot(grid[1, 4:29]), neuron_rows(explanation, _BARS), explanation)
    for number, (label, pictures, under) in enumerate(lines):
        _thumbnails(figure, grid, 2 + number, label, pictures, under)
    if not lines:
        _write(figure, 0.5, 0.12 / height, KEEP_EXAMPLES, ha="center", fontsize=9, color="0.3")
    return figure


def _title(explanation: Explanation) -> str:
    badge = VerdictBadge.of(explanation)
    first = (
        f"{plain(explanation.name)}: {badge.text}, predicted {plain(explanation.predicted_name)} "
        f"(probability {wording.probability(explanation.probability)})"
    )
    second = (
        f"score {explanation.score:.4g}, threshold {explanation.threshold:.4g}, "
        f"p-value {explanation.p_value:.2g}"
    )
    return "\n".join([*_wrapped(first, 120, 3), second])


def _pictures(figure: Figure, grid: GridSpec, explanation: Explanation) -> None:
    for number, panel in enumerate(panels(explanation)):
        axes = figure.add_subplot(grid[0, 12 * number : 12 * number + 11])
        axes.imshow(panel.picture, interpolation="nearest")
        axes.set_axis_off()
        axes.set_anchor("S")
        box = axes.get_position(original=True)
        _shrink(axes, top=0.84, bottom=0.12)
        lines = "\n".join(_wrapped(panel.caption, 52, 4))
        _write(axes, 0.5, 1.02, lines, axes.transAxes, ha="center", va="bottom", fontsize=9)
        if panel.ends:
            width = 0.5 * box.width
            bar = figure.add_axes(
                (box.x0 + 0.25 * box.width, box.y0 + 0.075 * box.height, width, 0.022 * box.height)
            )
            _colour_key(bar, panel.ends)


def _colour_key(bar: Axes, ends: tuple[str, ...]) -> None:
    colours = LinearSegmentedColormap.from_list("for", np.array(BLUE_TO_RED) / 255)
    bar.imshow(np.linspace(-1, 1, 256)[None], cmap=colours, aspect="auto")
    bar.set_yticks([])
    bar.set_xticks([0, 255], labels=ends)
    bar.tick_params(labelsize=9, length=0)


def _neurons(axes: Axes, rows: Sequence[NeuronRow], explanation: Explanation) -> None:
    _shrink(axes, top=0.9, bottom=0.2)
    places = np.arange(len(rows))
    axes.barh(
        places, [row.evidence for row in rows], 0.62, color=_HERE, label="evidence in this image"
    )
    axes.errorbar(
        [row.usual for row in rows],
        places,
        xerr=[row.spread for row in rows],
        fmt="D",
        color=_USUAL,
        markersize=5,
        capsize=3,
        linewidth=1.5,
        label="usual ± its standard deviation",
    )
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_yticks(
        places, [f"neuron {row.neuron}" + " (silent)" * (not row.active) for row in rows]
    )
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.tick_params(labelsize=9)
    axes.grid(axis="x", alpha=0.3)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    heading = "The neurons that differ most, beside what is usual for "
    heading = "\n".join(_wrapped(heading + plain(wording.beside(explanation)), 95, 2))
    _write(axes, 0.5, 1.02, heading, axes.transAxes, ha="center", va="bottom", fontsize=10)
    axes.set_xlabel("evidence: left of zero, it speaks against the class", fontsize=9)
    axes.legend(fontsize=9, frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.15), ncols=2)
    _write(axes, 1.03, 1.02, "of the difference", axes.transAxes, va="bottom", fontsize=9)
    for place, row in enumerate(rows):
        text = wording.percentage(row.part)
        _write(axes, 1.03, place, text, axes.get_yaxis_transform(), va="center", fontsize=9)


def _thumbnail_lines(
    explanation: Explanation,
) -> list[tuple[str, list[np.ndarray[Any, Any]], list[str]]]:
    """Rows of thumbnails: what they are, the pictures, and what stands under each."""
    examples = explanation.examples
    kept = examples.thumbnails
    nearest = [(kept[i], f"{distance:.3g}") for i, distance in examples.nearest if i in kept]
    lines = [
        ("nearest training images, and distance", nearest),
        *(
            (f"examples of neuron {neuron}", [(kept[i], "") for i in ids if i in kept])
            for neuron, ids in list(examples.kept_of_neurons.items())[:_OF_NEURONS]
        ),
    ]
    return [
        (label, [p for p, _ in shown[:_SHOWN]], [under for _, under in shown[:_SHOWN]])
        for label, shown in lines
        if shown
    ]


def _thumbnails(
    figure: Figure,
    grid: GridSpec,
    row: int,
    label: str,
    pictures: list[np.ndarray[Any, Any]],
    under: list[str],
) -> None:
    axes = figure.add_subplot(grid[row, 0:6])
    axes.set_axis_off()
    lines = "\n".join(_wrapped(label, 22, 4))
    _write(axes, 0.97, 0.58, lines, axes.transAxes, ha="right", va="center", fontsize=9)
    for number, (picture, text) in enumerate(zip(pictures, under, strict=True)):
        axes = figure.add_subplot(grid[row, 6 + 3 * number : 9 + 3 * number])
        axes.imshow(picture, interpolation="nearest")
        axes.set_axis_off()
        _shrink(axes, top=0.98, bottom=0.2)
        _write(axes, 0.5, -0.03, text, axes.transAxes, ha="center", va="top", fontsize=8)


def _shrink(axes: Axes, *, top: float, bottom: float) -> None:
    """Leave room for text above and below, in shares of the height."""
    box = axes.get_position(original=True)
    axes.set_position(
        (box.x0, box.y0 + bottom * box.height, box.width, (top - bottom) * box.height)
    )


def _write(
    where: Figure | Axes, x: float, y: float, text: str, transform: Any = None, **how: Any
) -> None:
    """Text that is shown as it is: dollars in the name of a class are no formula."""
    if transform is not None:
        how["transform"] = transform
    where.text(x, y, text, parse_math=False, **how)


def _wrapped(text: str, width: int, most: int) -> list[str]:
    lines = textwrap.wrap(text, width)
    return (
        lines if len(lines) <= most else [*lines[: most - 1], f"{lines[most - 1][: width - 2]} …"]
    )
