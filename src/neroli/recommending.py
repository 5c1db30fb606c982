"""Which of the detectors compared to recommend, and what that rests on, in sentences.

The default stands unless another detector

- has a higher objective by more than ``MARGIN``,
- by more than chance at ``LEVEL``, one-sided, corrected (Holm) for all that are compared with it,
- and does worse than the default on neither kind of stand-in beyond chance; this is not corrected,
  which would make it easier to leave the default.

Of several such the one with the highest objective is recommended.
"""

from __future__ import annotations

from collections.abc import Sequence

from neroli.activations import ActivationSource
from neroli.benchmark.results import Failed
from neroli.benchmark.tuning import MARGIN
from neroli.benchmark.wording import counted, percent
from neroli.choice import Gain, Ranked
from neroli.head import LinearHead

LEVEL = 0.05
"""Of every test: how often a gain that is none may be taken for one."""

FEW_FOLDS = 5
"""Of fewer groups of classes left out the spread says little."""

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
    surer = [(each, gain) for each, gain in over if gain.value > MARGIN and gain.chance < LEVEL]
    for each, gain in surer:
        if not gain.worse_on:
            return each.detector, (
                f"{each.detector} beats the default, {default}, by {_points(gain)}: more than "
                f"chance, also after correction for the {len(over)} compared with it, and it does "
                "worse on neither kind of stand-in."
            )
    if surer:
        each, gain = surer[0]
        return default, (
            f"The default, {default}, stands: {each.detector} beats it by {_points(gain)}, but "
            f"does worse on {' and '.join(gain.worse_on)}, so its gain may not carry over."
        )
    gain = over[0][1]
    small = f"not more than {percent(MARGIN)} points" if gain.value <= MARGIN else "within chance"
    return default, (
        f"The default, {default}, stands: no other detector surely beats it; the highest, "
        f"{best.detector}, is ahead by {_points(gain)}, which is {small} for the best of "
        f"{len(over)} compared with it."
    )


def _points(gain: Gain) -> str:
    """A gain in words."""
    error = "unknown" if gain.error is None else f"{100 * gain.error:.2f}"
    return f"{100 * gain.value:.2f} points of AUROC (standard error {error})"


def remarks(
    ranked: Sequence[Ranked],
    head: LinearHead,
    train: ActivationSource,
    held_out: ActivationSource,
    corrupted: ActivationSource | None,
    folds: int,
) -> list[str]:
    """What the comparison rests on, where that is not both stand-ins."""
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
            f"Corrupted images decide alone: no class can be left out, as {why}. They say less of "
            "OOD images that look like ID ones."
        ]
    said = []
    if corrupted is None:
        said.append(
            "Classes left out decide alone, as there are no corrupted images. They say less of "
            "images that are spoiled or of something else altogether."
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
            "left out: these classes are too easy to rank by, and what is left decides."
        )
    return said
