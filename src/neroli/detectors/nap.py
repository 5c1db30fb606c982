"""NAP: how far the maximum of every feature map stands out of its mean."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from neroli.activations import Activations
from neroli.assumptions import Assumption
from neroli.detectors.about import Paper, parameter
from neroli.detectors.base import Detector
from neroli.taps import PREPOOL, Requirements


@dataclass(eq=False)
class NAP(Detector):
    """NAP: minus the mean squared ratio of maximum to mean over the maps before pooling.

    ``S_NAP = mean_j (max A_j / (mean A_j + eps))^2`` over the channels j of the map A that is
    pooled into the features: a class that is there makes some places stand out. It can be combined
    with the energy: ``-LSE(z)^w S_NAP^(1-w)``; a log-sum-exp that is not positive counts as nearly
    zero. For transformers the paper takes the attention of the class token, which this is not.

    Args:
        energy_weight: w; 0 leaves the energy out. The paper finds it on corrupted images.
        eps: added to the mean.

    Source: Wan et al., arXiv 2402.18162, by the paper's text; no official program was found, and
    the weights the paper finally uses could not be read.
    """

    name: ClassVar[str] = "nap"
    paper: ClassVar[Paper | None] = Paper(
        "Wan et al.",
        2024,
        "",
        "2402.18162",
        "Out-of-Distribution Detection using Neural Activation Prior",
    )
    measures: ClassVar[str] = "how little the maxima of the feature maps stand out of their means"
    assumes: ClassVar[tuple[Assumption, ...]] = ("non-negative features",)

    energy_weight: float = parameter(0.0, "weight of the energy beside it", within=(0, 1))
    eps: float = parameter(1.0, "added to the mean of a map", above=0)

    @property
    def requires(self) -> Requirements:
        return Requirements(prepool=True)

    def compute(self, batch: Activations) -> Tensor:
        largest, mean = (batch.extras[name].to(batch.features) for name in PREPOOL)
        prior = (largest / (mean.clamp(min=0) + self.eps)).square().mean(dim=1)
        if self.energy_weight == 0:
            return -prior
        energy = batch.logits.logsumexp(dim=1).clamp(min=1e-12)
        return -energy.pow(self.energy_weight) * prior.pow(1 - self.energy_weight)
