"""DICE: energy of the logits from the weights that contribute most."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from neroli.activations import Activations
from neroli.detectors.about import Paper, parameter
from neroli.detectors.base import Detector, learned
from neroli.detectors.shares import Shares, energy_shares
from neroli.fitting import Learning
from neroli.head import LinearHead
from neroli.statistics import Mean


@dataclass(eq=False)
class DICE(Detector):
    """DICE: energy of the logits of a sparse head, ``-log sum exp((W o M) a + b)``.

    ``M_kj = 1`` where the mean contribution ``W_kj mean(a_j)`` of a weight over the training images
    is above a percentile of all C D contributions. They count with their sign, as in the authors'
    program; the bias stays.

    Args:
        percentile: share of weights removed, in %; the authors take 90 on CIFAR, 70 on ImageNet.
        threshold: the contribution a weight must exceed, in place of the percentile.

    Source: Sun and Li, ECCV 2022, arXiv 2111.09805, and the authors' program.
    """

    name: ClassVar[str] = "dice"
    paper: ClassVar[Paper | None] = Paper(
        "Sun and Li",
        2022,
        "ECCV",
        "2111.09805",
        "DICE: Leveraging Sparsification for Out-of-Distribution Detection",
    )
    measures: ClassVar[str] = "energy of the logits from the weights that contribute most"
    percentile: float = parameter(90.0, "% of weights removed", within=(0, 100))
    threshold: float | None = parameter(
        None,
        "contribution a weight must exceed; None: the percentile",
        between=(float("-inf"), float("inf")),
    )

    kept: Tensor = learned()
    """Which weights are kept, ``[C, D]`` bool."""

    def learn(self, head: LinearHead) -> Learning:
        mean = yield Mean("features")
        contribution = (head.weight.double().to(mean.device) * mean).cpu().numpy()
        threshold = self.threshold
        if threshold is None:
            threshold = float(np.percentile(contribution, self.percentile))
        self.kept = torch.from_numpy(contribution > threshold)

    def compute(self, batch: Activations) -> Tensor:
        assert self.head is not None
        weight = self.head.weight * self.kept
        return -(batch.features @ weight.T + self.head.bias).logsumexp(dim=1)

    def split(self, batch: Activations) -> Shares:
        """Of the energy over the weights that are kept."""
        assert self.head is not None
        kept = LinearHead(self.head.weight * self.kept, self.head.bias)
        return energy_shares(batch.features, kept)
