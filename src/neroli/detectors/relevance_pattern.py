"""Two detectors of neroli's own: does the evidence for the prediction look as it usually does?"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from neroli.activations import Activations
from neroli.assumptions import Assumption
from neroli.detectors.base import Detector, learned
from neroli.detectors.shares import Shares
from neroli.fitting import Learning
from neroli.head import LinearHead
from neroli.moments import ClassMoments
from neroli.statistics import Mean


@dataclass(eq=False)
class _RelevancePattern(Detector):
    """What both share: mean features of the predicted class, and relevance to its logit."""

    assumes: ClassVar[tuple[Assumption, ...]] = ("images of every predicted class",)

    usual: Tensor = learned()
    """Mean features of the training images predicted as each class, ``[C, D]``."""

    def learn(self, head: LinearHead) -> Learning:
        classes, mean = yield (
            ClassMoments("features", "predicted", allow_empty=True),
            Mean("features"),
        )
        self.usual = torch.where(classes.count[:, None] > 0, classes.mean, mean)

    def compute(self, batch: Activations) -> Tensor:
        unusual, relevance = self._compared(batch)
        ratio = unusual.sum(dim=1) / relevance
        # 0 / 0 of an image without any evidence is as far out as one without a usual share of it.
        ratio = torch.where(relevance > 0, ratio, torch.inf)
        return ratio.clamp(max=torch.finfo(ratio.dtype).max)

    def split(self, batch: Activations) -> Shares:
        """What is unusual of each neuron's relevance; of an image without any, nothing is."""
        unusual, relevance = self._compared(batch)
        largest = torch.finfo(unusual.dtype).max
        some = relevance > 0
        parts = unusual / torch.where(some, relevance, 1.0)[:, None]
        return Shares(
            (parts * some[:, None]).clamp(max=largest / parts.shape[1]),
            torch.zeros_like(relevance),
            torch.zeros_like(relevance).masked_fill(~some, largest),
            "the largest score, where there is no relevance at all",
        )

    def _compared(self, batch: Activations) -> tuple[Tensor, Tensor]:
        """What is unusual of the relevance ``[N, D]``, and all of it in absolute value ``[N]``."""
        assert self.head is not None
        weight = self.head.weight[batch.predictions]
        change = weight * (batch.features - self.usual[batch.predictions])
        return self.unusual(change), (weight * batch.features).abs().sum(dim=1)

    @abstractmethod
    def unusual(self, change: Tensor) -> Tensor:
        """What counts of the change ``[N, D]`` of relevance from its usual pattern."""


@dataclass(eq=False)
class RelevanceDeviation(_RelevancePattern):
    """How far the evidence for the prediction is from its usual pattern.

    ``sum_j |W_cj (a_j - mean_cj)| / sum_j |W_cj a_j|``: c is the predicted class, ``mean_c`` the
    mean features of the training images *predicted* as c, so labels are not needed. ``W_cj a_j`` is
    the relevance of neuron j to the logit of c.

    A class never predicted in training has the mean of all images. An image without any relevance
    (no active neuron with a weight) gets the largest finite score. Mean AUROC/FPR95 in % over
    CIFAR-100, Tiny-ImageNet and MNIST of a CIFAR-10 ResNet-20: 90.7/38.8 (energy: 91.5/41.6).

    Source: neroli's own, not published elsewhere.
    """

    name: ClassVar[str] = "relevance_deviation"
    measures: ClassVar[str] = "how far the evidence for the prediction is from its usual pattern"

    def unusual(self, change: Tensor) -> Tensor:
        return change.abs()


@dataclass(eq=False)
class RelevanceDeficit(_RelevancePattern):
    """How much of the usual evidence for the prediction is missing.

    ``sum_j max(W_cj (mean_cj - a_j), 0) / sum_j |W_cj a_j|``: as ``RelevanceDeviation``, with c the
    predicted class and ``mean_c`` the mean features of the training images *predicted* as c, but
    evidence beyond the usual does not count.

    A class never predicted in training has the mean of all images. An image without any relevance
    (no active neuron with a weight) gets the largest finite score. Mean AUROC/FPR95 in % over
    CIFAR-100, Tiny-ImageNet and MNIST of a CIFAR-10 ResNet-20: 92.0/38.6 (energy: 91.5/41.6).

    Source: neroli's own, not published elsewhere.
    """

    name: ClassVar[str] = "relevance_deficit"
    measures: ClassVar[str] = "how much of the usual evidence for the prediction is missing"

    def unusual(self, change: Tensor) -> Tensor:
        return (-change).clamp(min=0)
