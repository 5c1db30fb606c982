"""The share of images a threshold flags that promises a false-alarm rate."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from neroli.benchmark.scores import Scores
from neroli.benchmark.stores import OOD, Stores
from neroli.calibration import Calibration, Promise
from neroli.errors import NotEnoughImages
from neroli.overlap import seeded_half

ON_CALIBRATION = "the calibration images"
ON_HALVES = (
    "each half of the ID test images in turn, and applied to the other half: the suite has no "
    "calibration images"
)


@dataclass(frozen=True)
class Flagged:
    """Shares of images flagged, as fractions: of the ID test images, and of every OOD set.

    Attributes:
        threshold: above it; the mean of two, if each half has its own.
    """

    threshold: float
    inside: float
    outside: Mapping[str, float]


def flagged(
    scores: Scores, stores: Stores, promise: Promise, learned_from: Tensor | None = None
) -> Flagged | None:
    """What a detector flags; None if there are too few images for the promise.

    Args:
        scores: of the detector, on every set.
        stores: of the sets.
        promise: of the threshold.
        learned_from: which calibration images the detector learned from, bool ``[N]``: the
            threshold comes from the others.
    """
    test = scores.sets["test"]
    try:
        if "calibration" in stores.of:
            rest = slice(None) if learned_from is None else ~learned_from
            threshold = _threshold(scores.sets["calibration"][rest], promise)
            thresholds, inside = [threshold], _share(test, threshold)
        else:
            half = seeded_half(stores.of["test"].digests(), torch.ones(len(test), dtype=torch.bool))
            thresholds = [_threshold(test[half], promise), _threshold(test[~half], promise)]
            counts = (test[~half] > thresholds[0]).sum() + (test[half] > thresholds[1]).sum()
            inside = int(counts) / len(test)
    except NotEnoughImages:
        return None
    outside = {
        name.removeprefix(OOD): sum(_share(values, t) for t in thresholds) / len(thresholds)
        for name, values in scores.sets.items()
        if name.startswith(OOD)
    }
    return Flagged(sum(thresholds) / len(thresholds), inside, outside)


def _threshold(scores: Tensor, promise: Promise) -> float:
    return Calibration(scores, torch.zeros(len(scores), dtype=torch.int64), 1, promise).threshold


def _share(scores: Tensor, threshold: float) -> float:
    return float((scores > threshold).double().mean())
