"""NCDD: how much nearer the nearest class centroid is than the others."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from neroli.activations import Activations
from neroli.assumptions import Assumption
from neroli.detectors.about import Paper, parameter
from neroli.detectors.base import Detector, learned
from neroli.fitting import Learning
from neroli.head import LinearHead
from neroli.moments import ClassMoments, Labelling
from neroli.statistics import Mean

_TINY = 1e-10


@dataclass(eq=False)
class NCDD(Detector):
    """Nearest centroid distance deficit: the distances to the centroids, scaled by feature size.

    ``-(log(s / 10^alpha_1) sum_{k > 1} d_(k) - log(s / 10^alpha_2) d_(1))``: ``d_(1) <= d_(2)...``
    are the squared distances of ``v = a - m`` to the class centroids, both normalised, m the mean
    of all training features, and ``s = ||v||_1``. The exponents are tuned to the scale of the
    features: with ordinary features s is less than 10^4, so both logarithms can turn negative, and
    with them the sense of a term; the score then goes by s more than by the distances. On features
    of a CIFAR-10 DenseNet it ranks most OOD images below ID ones: try it on OOD images first.

    Args:
        alpha_1: exponent that goes with the other centroids; 4 in the authors' program.
        alpha_2: exponent that goes with the nearest centroid; 1 in the authors' program.
        labels: class centroids over the "true" or over the "predicted" class.

    A class without any image is left out. s is at least 1e-10, and v = 0 lies at distance 1 from
    every centroid.

    Source: Pokhrel et al., MIUA 2025, arXiv 2412.01590, and the authors' program.
    """

    name: ClassVar[str] = "ncdd"
    paper: ClassVar[Paper | None] = Paper(
        "Pokhrel et al.",
        2025,
        "MIUA",
        "2412.01590",
        "NCDD: Nearest Centroid Distance Deficit for Out-Of-Distribution Detection in "
        "Gastrointestinal Vision",
    )
    measures: ClassVar[str] = "deficit of the distance to the nearest class centroid"
    assumes: ClassVar[tuple[Assumption, ...]] = ("images of every class",)

    alpha_1: float = parameter(4.0, "exponent of the other centroids", within=(-30, 30))
    alpha_2: float = parameter(1.0, "exponent of the nearest centroid", within=(-30, 30))
    labels: Labelling = parameter("true", "class means over the true or the predicted class")

    centre: Tensor = learned()
    """Mean features, ``[D]``."""
    centroids: Tensor = learned()
    """Normalised class means around it, ``[C, D]``."""

    def learn(self, head: LinearHead) -> Learning:
        classes, self.centre = yield (
            ClassMoments("features", self.labels, allow_empty=True),
            Mean("features"),
        )
        self.centroids = _unit(classes.mean[classes.count > 0] - self.centre)

    def compute(self, batch: Activations) -> Tensor:
        centred = batch.features - self.centre
        size = centred.abs().sum(dim=1).clamp(min=_TINY).log()
        unit = _unit(centred)
        squares = unit.square().sum(dim=1, keepdim=True) + self.centroids.square().sum(dim=1)
        distances = squares - 2 * unit @ self.centroids.T
        first = distances.amin(dim=1)
        others = distances.sum(dim=1) - first
        ten = math.log(10)
        return (size - self.alpha_2 * ten) * first - (size - self.alpha_1 * ten) * others


def _unit(rows: Tensor) -> Tensor:
    norms: Tensor = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    return rows / (norms + _TINY)
