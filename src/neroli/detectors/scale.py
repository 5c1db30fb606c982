"""SCALE: energy after scaling features by how much of them lies on few neurons."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from neroli.activations import Activations
from neroli.assumptions import Assumption
from neroli.detectors.about import Paper, parameter
from neroli.detectors.ash import largest, scale_factor
from neroli.detectors.base import Detector


@dataclass(eq=False)
class SCALE(Detector):
    """SCALE: energy of the logits of scaled features, ``-log sum exp(W a exp(s1 / s2) + b)``.

    ``s1`` is the sum of an image's activations, ``s2`` that of the largest of them. Unlike ASH-S it
    prunes nothing.

    Args:
        percentile: share of the D activations that ``s2`` leaves out, in %; round(D p / 100).

    Made for wide networks; with the 64 features of a CIFAR-10 ResNet-20 it does harm: mean
    AUROC/FPR95 in % over CIFAR-100, Tiny-ImageNet and MNIST 83.4/48.9 (energy: 91.5/41.6).

    An image whose largest activations have no positive sum is not scaled; s1 / s2 is cut off at 60,
    which a percentile below 97 never reaches.

    Source: Xu et al., ICLR 2024, arXiv 2310.00227, and the authors' program.
    """

    name: ClassVar[str] = "scale"
    paper: ClassVar[Paper | None] = Paper(
        "Xu et al.",
        2024,
        "ICLR",
        "2310.00227",
        "Scaling for Training Time and Post-hoc Out-of-distribution Detection Enhancement",
    )
    measures: ClassVar[str] = "energy of features scaled by their share on the largest"
    assumes: ClassVar[tuple[Assumption, ...]] = ("non-negative features",)
    uses_head: ClassVar[bool] = True
    percentile: float = parameter(85.0, "% of activations left out of s2", between=(0, 100))

    def compute(self, batch: Activations) -> Tensor:
        assert self.head is not None
        kept = batch.features * largest(batch.features, self.percentile)
        scaled = batch.features * scale_factor(batch.features, kept)
        return -self.head(scaled).logsumexp(dim=1)
