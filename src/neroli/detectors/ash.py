"""ASH: energy after pruning an image's small activations, in three variants."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from neroli.activations import Activations
from neroli.assumptions import Assumption
from neroli.detectors.about import Paper, parameter
from neroli.detectors.base import Detector

_LARGEST_EXPONENT = 60.0


@dataclass(eq=False)
class _ASH(Detector):
    """What the variants share: energy of the logits of shaped features."""

    paper: ClassVar[Paper | None] = Paper(
        "Djurisic et al.",
        2023,
        "ICLR",
        "2209.09858",
        "Extremely Simple Activation Shaping for Out-of-Distribution Detection",
    )
    assumes: ClassVar[tuple[Assumption, ...]] = ("non-negative features",)
    uses_head: ClassVar[bool] = True
    percentile: float = parameter(90.0, "% of an image's activations removed", between=(0, 100))

    @abstractmethod
    def shaped(self, features: Tensor) -> Tensor:
        """Features ``[N, D]`` as the head shall see them; the authors change theirs in place."""

    def compute(self, batch: Activations) -> Tensor:
        assert self.head is not None
        return -self.head(self.shaped(batch.features)).logsumexp(dim=1)


@dataclass(eq=False)
class ASHP(_ASH):
    """ASH-P, pruning alone: ``-log sum exp(W a' + b)`` where a' keeps the largest activations.

    Args:
        percentile: share of an image's D activations set to zero, in %; round(D p / 100) of them.

    On the pooled features, as in the authors' ResNet-50; of equal activations the first are kept.

    Source: Djurisic et al., ICLR 2023, arXiv 2209.09858, and the authors' program.
    """

    name: ClassVar[str] = "ash_p"
    measures: ClassVar[str] = "energy after removing an image's small activations"

    def shaped(self, features: Tensor) -> Tensor:
        return features * largest(features, self.percentile)


@dataclass(eq=False)
class ASHB(_ASH):
    """ASH-B: ``-log sum exp(W a' + b)`` where a' sets the k largest activations to their share.

    Every one of them becomes ``sum_j a_j / k``, with the sum over all D activations; the others 0.

    Args:
        percentile: share of an image's D activations set to zero, in %; round(D p / 100) of them.

    On the pooled features. Of equal activations, zeros too, the first are kept.

    Source: Djurisic et al., ICLR 2023, arXiv 2209.09858, and the authors' program.
    """

    name: ClassVar[str] = "ash_b"
    measures: ClassVar[str] = "energy with an image's large activations made equal, others removed"

    def shaped(self, features: Tensor) -> Tensor:
        kept = largest(features, self.percentile)
        return kept * (features.sum(dim=1) / kept.sum(dim=1))[:, None]


@dataclass(eq=False)
class ASHS(_ASH):
    """ASH-S: ``-log sum exp(W a' + b)`` where a' scales the largest activations up.

    They are multiplied by ``exp(s1 / s2)``: the sum of all D activations over that of those kept.

    Args:
        percentile: share of an image's D activations set to zero, in %; round(D p / 100) of them.

    Made for wide networks; with the 64 features of a CIFAR-10 ResNet-20 it does harm: mean
    AUROC/FPR95 in % over CIFAR-100, Tiny-ImageNet and MNIST 61.2/69.5 (energy: 91.5/41.6).

    On the pooled features. An image whose kept activations have no positive sum is not scaled;
    s1 / s2 is cut off at 60, which a percentile below 97 never reaches.

    Source: Djurisic et al., ICLR 2023, arXiv 2209.09858, and the authors' program.
    """

    name: ClassVar[str] = "ash_s"
    measures: ClassVar[str] = "energy with an image's large activations scaled up, others removed"

    def shaped(self, features: Tensor) -> Tensor:
        shaped = features * largest(features, self.percentile)
        return shaped * scale_factor(features, shaped)


def largest(features: Tensor, percentile: float) -> Tensor:
    """Which activations of an image are kept: ``[N, D]`` bool, equally many in every row.

    ``D - round(D percentile / 100)`` but at least one; the first of equal ones, on every device.
    """
    size = features.shape[1]
    count = max(size - round(size * percentile / 100), 1)
    if features.device.type == "cpu":  # selection in numpy takes a fifth of the time of topk
        parted = np.partition(features.numpy(), size - count, axis=1)
        smallest = torch.from_numpy(parted[:, size - count, None])
    else:
        smallest = features.topk(count, dim=1).values[:, -1:]
    kept = features >= smallest
    if int(kept.sum()) == count * len(features):
        return kept
    above, equal = features > smallest, features == smallest
    places = count - above.sum(dim=1, keepdim=True)
    return above | (equal & (equal.cumsum(dim=1) <= places))


def scale_factor(features: Tensor, kept: Tensor) -> Tensor:
    """``exp(s1 / s2)``, ``[N, 1]``: s1 the sum of all activations, s2 of those kept, others zero.

    As the kept ones are the largest, s1 / s2 is at most D over their number where s2 is positive;
    where it is not, which needs signed or no activations, the factor is one.
    """
    total = features.sum(dim=1, keepdim=True)
    part = kept.sum(dim=1, keepdim=True)
    positive = part > 0
    ratio = torch.where(positive, total, 0.0) / torch.where(positive, part, 1.0)
    return ratio.clamp(max=_LARGEST_EXPONENT).exp()
