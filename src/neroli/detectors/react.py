"""ReAct: energy of the logits of clipped features."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from neroli.activations import Activations
from neroli.assumptions import Assumption
from neroli.detectors.about import Paper, parameter
from neroli.detectors.base import Detector, learned
from neroli.detectors.shares import Shares, energy_shares
from neroli.fitting import Learning
from neroli.head import LinearHead
from neroli.statistics import Extrema, Quantiles


@dataclass(eq=False)
class ReAct(Detector):
    """ReAct: energy of the logits after clipping the features, ``-log sum exp(W min(a, c) + b)``.

    Args:
        percentile: c is this percentile of all training activations (every neuron of every image
            together), found to a bin of their histogram.
        clip: c itself, in place of the percentile; the paper's is 1.0 for an ImageNet ResNet-50.

    Source: Sun et al., NeurIPS 2021, arXiv 2111.12797, and the authors' program.
    """

    name: ClassVar[str] = "react"
    paper: ClassVar[Paper | None] = Paper(
        "Sun et al.",
        2021,
        "NeurIPS",
        "2111.12797",
        "ReAct: Out-of-distribution Detection With Rectified Activations",
    )
    measures: ClassVar[str] = "energy of the logits of clipped features"
    assumes: ClassVar[tuple[Assumption, ...]] = ("non-negative features",)
    percentile: float = parameter(90.0, "% of activations below the clip", within=(0, 100))
    clip: float | None = parameter(
        None, "where activations are clipped; None: at the percentile", above=0
    )

    threshold: Tensor = learned()
    """c, a scalar: as given or as learned."""

    def learn(self, head: LinearHead) -> Learning:
        if self.clip is None:
            extremes = yield Extrema("features")
            level = self.percentile / 100
            self.threshold = (yield Quantiles("features", extremes, (level,)))[0]
        else:
            self.threshold = torch.tensor(self.clip, dtype=torch.float64)

    def compute(self, batch: Activations) -> Tensor:
        assert self.head is not None
        clipped = torch.minimum(batch.features, self.threshold)
        return -self.head(clipped).logsumexp(dim=1)

    def split(self, batch: Activations) -> Shares:
        """Of the energy of the clipped activations."""
        assert self.head is not None
        return energy_shares(torch.minimum(batch.features, self.threshold), self.head)
