"""What figure and report both say of an explanation: its badge, captions and rows of neurons."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from neroli.explain import wording

if TYPE_CHECKING:
    from neroli.explain.explanation import Explanation
    from neroli.explain.heatmap import Heatmap
    from neroli.explain.pictures import Picture

KEEP_EXAMPLES = (
    "No training images are shown: fit the guard with keep_examples=200 (neroli fit "
    "--keep-examples 200) to keep small pictures of them. They may be patient data."
)
NO_HEATMAPS = "which need the network itself and not a file exported from it"


_LARGE = 100
"""Pixels of the longer side from which on maps are blurred."""
_BLUR = 0.01
"""Standard deviation, of the longer side."""
_TURNS = frozenset({"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"})
"""Classes of characters that set the direction of what follows them."""


class Judged(Protocol):
    """What was flagged, or was not."""

    @property
    def is_ood(self) -> bool: ...


@dataclass(frozen=True)
class VerdictBadge:
    """The verdict in a word or two."""

    text: str
    is_ood: bool

    @classmethod
    def of(cls, image: Judged) -> VerdictBadge:
        """Of an explanation, or a record of what was said of an image."""
        return cls("out of distribution" if image.is_ood else "not flagged", image.is_ood)


@dataclass(frozen=True)
class NeuronRow:
    """A neuron of one image.

    Attributes:
        share: what it adds to the score; None where that is not known.
        part: of all that differs from the usual what is of this neuron, 0 to 1.
    """

    neuron: int
    evidence: float
    usual: float
    spread: float
    active: bool
    share: float | None
    part: float


def neuron_rows(explanation: Explanation, most: int | None = None) -> list[NeuronRow]:
    """The neurons that differ most, at most so many of those that the explanation names."""
    neurons = explanation.neurons
    count = explanation.top if most is None else min(most, explanation.top)
    size = neurons.deviation[0].abs()
    parts = size / (float(size.sum()) or 1.0)
    return [
        NeuronRow(**figures, part=float(parts[figures["neuron"]]))
        for figures in neurons.to_dict(0, count)["top"]
    ]


def shown(heatmap: Heatmap, picture: Picture) -> Picture:
    """A heat map over its picture, blurred a little where that is large.

    Strides of a network leave a grid in the pixels that hides where relevance lies.
    """
    side = max(picture.shape[:2])
    smoothing = _BLUR * side if side >= _LARGE else 0.0
    over: Picture = heatmap.overlay(picture[None], smoothing=smoothing)[0]
    return over


@dataclass(frozen=True, eq=False)
class Panel:
    """A picture of an explanation, with what it shows.

    Attributes:
        caption: what it shows.
        picture: ``[H, W, 3]`` uint8.
        ends: what blue and red mean; empty of the picture itself.
    """

    caption: str
    picture: Picture
    ends: tuple[str, ...] = ()


def panels(explanation: Explanation) -> list[Panel]:
    """The picture, and both heat maps over it if there are any."""
    given = "What the network was given"
    prediction, deviation = explanation.heatmap, explanation.deviation
    if prediction is None or deviation is None:
        return [Panel(f"{given} (without heat maps, {NO_HEATMAPS})", explanation.picture)]
    name = plain(explanation.predicted_name)
    return [
        Panel(given, explanation.picture),
        Panel(
            f"Where {name} was seen ({_method(prediction)})",
            shown(prediction, explanation.picture),
            ("against", "for"),
        ),
        Panel(
            _deviation_caption(explanation, deviation),
            shown(deviation, explanation.picture),
            ("less than usual", "more than usual"),
        ),
    ]


def plain(name: str) -> str:
    """A name as text that can be shown: bytes that are none and control characters as escapes.

    So are characters that turn the direction of writing, which make a name look like another.
    """
    text = name.encode(errors="surrogateescape").decode(errors="backslashreplace")
    return "".join(
        c.encode("unicode_escape").decode()
        if unicodedata.category(c) in ("Cc", "Cs") or unicodedata.bidirectional(c) in _TURNS
        else c
        for c in text
    )


def _deviation_caption(explanation: Explanation, heatmap: Heatmap) -> str:
    """What the heat map of the deviation shows, what it cannot, and how exactly."""
    missing = float(explanation.neurons.missing[0])
    if missing == 1:
        return "Where evidence is unusual: nothing to show, all of it is missing evidence"
    hidden = f"; {wording.percentage(missing)} is missing evidence, not shown" if missing else ""
    return f"Where evidence is unusual{hidden} ({_method(heatmap)})"


def _method(heatmap: Heatmap) -> str:
    error = f"conservation error {wording.percentage(float(heatmap.conservation[0]))}"
    if heatmap.method == "lrp":
        return f"relevance propagation, {error}"
    return f"gradient times input, {error}, since {plain(str(heatmap.reason))}"
