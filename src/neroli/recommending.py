"""Which of the detectors compared to recommend, and what that rests on, in sentences.

The default stands unless another detector does better on both kinds of stand-ins, classes left out
and corrupted images: on each by more than ``MARGIN`` and by more than chance. The chance of a gain
is the larger of its chances on the two (an intersection-union test), corrected (Holm) for all that
are compared with the default, and must be below ``LEVEL``. Of several such the one with the highest
objective is recommended; where there is but one kind, none is.

A higher mean of both is not enough. The network learned its features with the classes left out, so
detectors of distances between features tell them better than anything it never learned, while
corrupted images are often far from everything: a detector may excel at either and fail at OOD data.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from neroli.activations import ActivationSource
from neroli.benchmark.results import Failed
from neroli.benchmark.tuning import MARGIN
from neroli.benchmark.wording import counted, percent, signed
from neroli.choice import Gain, Ranked
from neroli.head import LinearHead

LEVEL = 0.05
"""Of every test: how often a gain that is none may be taken for one."""

FEW_FOLDS = 5
"""Of fewer groups of classes left out the spread says little."""

FEW_IMAGES = 100
"""With fewer held-out images the interval of an AUROC near 1 is too narrow."""

TOO_EASY = 0.995
"""Classes left out on which more than half of the detectors reach this AUROC rank nothing."""


def verdict(ranked: Sequence[Ranked], default: str, failures: Sequence[Failed]) -> tuple[str, str]:
    """The detector to take, and why in a sentence."""
    best = ranked[0]
    why = next((each.reason.rstrip(".") for each in failures if each.label == default), None)
    if why is not None:
        return best.detector, (
            f"The default, {default}, cannot be used here ({why}), and {best.detector} has the "
            f"highest objective of the others."
        )
    if len(ranked) == 1:
        return default, f"Only {default} could be compared, so the default stands."
    if best.detector == default:
        return default, (
            f"The default, {default}, stands: it has the highest objective of the "
            f"{len(ranked)} detectors compared."
        )
    over = [(each, each.gain) for each in ranked if each.gain is not None]
    for each, gain in over:
        if len(gain.on) > 1 and not _short_on(gain) and gain.chance < LEVEL:
            return each.detector, (
                f"{each.detector} beats the default, {default}, by {_points(gain.value)} of AUROC "
                f"({_each(gain, gain.on)}): on both by more than chance, also after correction for "
                f"the {len(over)} compared with it."
            )
    return default, f"The default, {default}, stands: {_doubt(best.detector, over)}."


def _doubt(best: str, over: Sequence[tuple[Ranked, Gain]]) -> str:
    """Why the detector with the highest objective is not recommended."""
    gain = over[0][1]
    ahead = f"{best} has the highest objective, by {_points(gain.value)} of AUROC"
    if gain.value <= MARGIN:
        return f"{ahead}, which is too little to leave it ({_points(MARGIN)} or less)"
    if len(gain.on) == 1:
        return f"{ahead}, but on {next(iter(gain.on))} alone, which is too little to go by"
    if short := _short_on(gain):
        return f"{ahead}, but does not do better on both kinds of stand-in ({_each(gain, short)})"
    return (
        f"{ahead} ({_each(gain, gain.on)}), which on both is no more than chance may give the best "
        f"of {len(over)} compared with it"
    )


def _short_on(gain: Gain) -> list[str]:
    """The stand-ins on which a detector gains too little to count, or loses."""
    return [kind for kind, value in gain.on.items() if value <= MARGIN]


def _each(gain: Gain, kinds: Iterable[str]) -> str:
    return ", ".join(f"{signed(gain.on[kind])} on {kind}" for kind in kinds)


def _points(value: float) -> str:
    return f"{percent(value)} points"


def remarks(
    ranked: Sequence[Ranked],
    head: LinearHead,
    train: ActivationSource,
    held_out: ActivationSource,
    corrupted: ActivationSource | None,
    folds: int,
) -> list[str]:
    """What the comparison rests on, where that is not both stand-ins or not enough images."""
    few = []
    if len(held_out) < FEW_IMAGES:
        few.append(
            f"Only {counted(len(held_out), 'held-out image')}: of so few, differences of some "
            "points are chance, and the intervals of an AUROC near 100% are too narrow."
        )
    if folds == 0:
        unlabelled = [
            kind
            for kind, source in (("training", train), ("held-out", held_out))
            if not source.has_labels
        ]
        why = f"the {' and '.join(unlabelled)} images have no labels"
        if not unlabelled:
            why = f"there are only {counted(head.num_classes, 'class', 'classes')}"
            if head.num_classes > 2:
                why = "there are held-out images of one class alone"
        return [
            f"Corrupted images alone rank the detectors: no class can be left out, as {why}. They "
            "say little of OOD images that look like ID ones.",
            *few,
        ]
    said = []
    if corrupted is None:
        said.append(
            "Classes left out alone rank the detectors, as there are no corrupted images. They say "
            "little of images that are spoiled or of something else altogether."
        )
    if folds < FEW_FOLDS:
        said.append(
            f"Only {counted(folds, 'class or group', 'classes or groups')} could be left out: so "
            "few say little about others."
        )
    easy = [each for each in ranked if each.left_out and each.left_out.auroc.value >= TOO_EASY]
    if 2 * len(easy) > len(ranked):
        said.append(
            f"{len(easy)} of {counted(len(ranked), 'detector')} tell nearly every image of a class "
            "left out: these classes are too easy to rank by, and hardly leave room for a gain."
        )
    return [*said, *few]
