"""GEN: generalised entropy of the largest probabilities."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from neroli.activations import Activations
from neroli.detectors.about import Paper, parameter
from neroli.detectors.base import Detector


@dataclass(eq=False)
class GEN(Detector):
    """Generalised entropy of the top M probabilities: ``sum_{k <= M} p_(k)^g (1 - p_(k))^g``.

    Args:
        gamma: g, the exponent; small ones magnify probabilities close to 0 and 1.
        top: M, how many of the largest probabilities count; all of them where C is smaller.

    Computed from log-probabilities, and ``1 - p`` of the top class as the sum of the others: in
    float32 the p of a confident image rounds to one, which would be off by up to 24 %.

    Source: Liu et al., CVPR 2023, and the authors' program.
    """

    name: ClassVar[str] = "gen"
    paper: ClassVar[Paper | None] = Paper(
        "Liu et al.",
        2023,
        "CVPR",
        title="GEN: Pushing the Limits of Softmax-Based Out-of-Distribution Detection",
    )
    measures: ClassVar[str] = "generalised entropy of the largest probabilities"
    gamma: float = parameter(0.1, "exponent", above=0)
    top: int = parameter(100, "how many of the largest probabilities count", at_least=1)

    def compute(self, batch: Activations) -> Tensor:
        log_p = batch.logits.log_softmax(dim=1)
        first, predicted = log_p.max(dim=1, keepdim=True)
        others = log_p.scatter(1, predicted, -torch.inf)
        rest = others.logsumexp(dim=1, keepdim=True)
        if self.top < log_p.shape[1]:
            others = others.topk(self.top - 1, dim=1).values
        # All but the first are at most 1/2, where the logarithm of 1 - p is exact enough.
        terms = others + (1 - others.exp()).log()
        together = torch.cat([first + rest, terms], dim=1)
        return (self.gamma * together).exp().sum(dim=1)
