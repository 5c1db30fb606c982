"""OpenMax: the probability of an unknown class, by extreme-value theory on the logits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from neroli.activations import Activations
from neroli.assumptions import Assumption
from neroli.detectors.about import Paper, parameter
from neroli.detectors.base import Detector, learned
from neroli.errors import NotEnoughImages
from neroli.fitting import Learning
from neroli.head import LinearHead
from neroli.moments import ClassMoments
from neroli.tails import ClassLargest

_FLATTEST, _STEEPEST = 1e-3, 1e4


@dataclass(eq=False)
class OpenMax(Detector):
    """Probability of a class that is not there, by how far the logits lie from class means.

    For the ``alpha`` largest logits, at rank i: ``w_c = F_c(d_c) (alpha + 1 - i) / alpha``, with
    ``d_c`` the Euclidean distance of z to the mean logits of class c and ``F_c`` the Weibull
    distribution of the largest distances in training. With ``z'_c = z_c (1 - w_c)`` and
    ``z'_unknown = sum z_c w_c``, the score is the last entry of ``softmax([z', z'_unknown])``.

    Means and distances are those of correctly classified training images. ``F_c`` is the
    two-parameter Weibull distribution of maximum likelihood on ``d + 1 - min(tail)``, and 0 where
    that is negative. Its shape is sought in 0.001 to 10,000: distances that are all equal have no
    optimum and get the steepest. A class without any correctly classified image keeps its logit
    (w = 0).

    Args:
        tail: how many of the largest distances of every class the distribution is fitted to.
        alpha: how many of the largest logits are revised; all of them where C is smaller.

    Source: Bendale and Boult, CVPR 2016, arXiv 1511.06233, with the settings of OpenOOD's program
    (the paper's alpha is 10, unverified). Weibull fits of that program stop within 1e-4 of the
    optimum; these converge.
    """

    name: ClassVar[str] = "openmax"
    paper: ClassVar[Paper | None] = Paper(
        "Bendale and Boult", 2016, "CVPR", "1511.06233", "Towards Open Set Deep Networks"
    )
    measures: ClassVar[str] = "probability of an unknown class, by Weibull tails of the logits"
    assumes: ClassVar[tuple[Assumption, ...]] = ("correct images of every class",)
    tail: int = parameter(20, "largest distances a class's tail is fitted to", within=(1, 1e6))
    alpha: int = parameter(3, "how many of the largest logits are revised", at_least=1)

    means: Tensor = learned()
    """Mean logits of the correctly classified images of each class, ``[C, C]``."""
    shift: Tensor = learned()
    """What is added to a distance before its tail probability is looked up, ``[C]``."""
    log_scale: Tensor = learned()
    """Logarithm of the scale of each Weibull distribution, ``[C]``."""
    shape: Tensor = learned()
    """Shape of each Weibull distribution, ``[C]``; 0 of a class without correct images."""

    def learn(self, head: LinearHead) -> Learning:
        classes = yield ClassMoments("logits", "correct", allow_empty=True)
        known = classes.count > 0
        if not known.any():
            raise NotEnoughImages(
                f"OpenMax learns from correctly classified training images, and none of the "
                f"{len(known)} classes has any: check that the labels number the classes as the "
                "model does."
            )
        self.means = classes.mean
        tails = yield ClassLargest(_DistanceToOwnMean(classes.mean), self.tail, "correct")
        smallest = tails.masked_fill(tails == -torch.inf, torch.inf).amin(dim=1)
        self.shift = torch.where(known, 1 - smallest, 0.0)
        self.shape, self.log_scale = torch.zeros_like(self.shift), torch.zeros_like(self.shift)
        self.shape[known], self.log_scale[known] = weibull(tails[known] + self.shift[known, None])

    def compute(self, batch: Activations) -> Tensor:
        logits = batch.logits
        alpha = min(self.alpha, logits.shape[1])
        largest, classes = logits.topk(alpha, dim=1)
        revised, unknown = logits.clone(), torch.zeros_like(logits[:, :1])
        for rank in range(alpha):
            index, value = classes[:, rank], largest[:, rank, None]
            distance = torch.linalg.vector_norm(logits - self.means[index], dim=1)
            weight = self._tail_probability(distance, index) * ((alpha - rank) / alpha)
            moved = value * weight[:, None]
            revised.scatter_(1, index[:, None], value - moved)
            unknown = unknown + moved
        return torch.cat([revised, unknown], dim=1).softmax(dim=1)[:, -1]

    def _tail_probability(self, distance: Tensor, index: Tensor) -> Tensor:
        shifted = distance + self.shift[index]
        shape = self.shape[index]
        log_hazard = shape * (shifted.clamp(min=0).log() - self.log_scale[index])
        reached = (shape > 0) & (shifted > 0)
        return torch.where(reached, -torch.expm1(-log_hazard.exp()), 0.0)


@dataclass(frozen=True, eq=False)
class _DistanceToOwnMean:
    """Euclidean distance of the logits to their true class's mean, [N]."""

    means: Tensor

    def __call__(self, batch: Activations) -> Tensor:
        assert batch.labels is not None, "fitting checks that labels are there"
        difference = batch.logits.double() - self.means[batch.labels]
        distance: Tensor = torch.linalg.vector_norm(difference, dim=1)
        return distance


def weibull(values: Tensor) -> tuple[Tensor, Tensor]:
    """Shape and logarithm of the scale of the likeliest Weibull distribution of every row.

    The derivative of the likelihood, the scale eliminated, has one root in the shape k:
    ``sum x^k log x / sum x^k - 1/k = mean log x``. Its left side grows with k, so bisection finds
    it, for all rows at once. Powers are taken relative to the row's largest, so none overflows.

    Args:
        values: ``[C, K]`` positive; -inf fills up shorter rows.
    """
    missing = values == -torch.inf
    logs = values.masked_fill(missing, 1.0).log()
    count = (~missing).sum(dim=1).to(values)
    mean = logs.sum(dim=1) / count
    low = torch.full_like(mean, _FLATTEST).log()
    high = torch.full_like(mean, _STEEPEST).log()
    for _ in range(60):  # halves an interval of 16 to rounding
        middle = (low + high) / 2
        shape = middle.exp()
        weights = (shape[:, None] * logs).masked_fill(missing, -torch.inf).softmax(dim=1)
        too_flat = (weights * logs).sum(dim=1) - 1 / shape < mean
        low, high = torch.where(too_flat, middle, low), torch.where(too_flat, high, middle)
    shape = ((low + high) / 2).exp()
    powers = (shape[:, None] * logs).masked_fill(missing, -torch.inf)
    return shape, (powers.logsumexp(dim=1) - count.log()) / shape
