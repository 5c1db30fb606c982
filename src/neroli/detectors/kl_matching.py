"""KL matching: distance of the probabilities to the nearest class's usual ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from neroli.activations import Activations
from neroli.assumptions import Assumption
from neroli.detectors.about import Paper
from neroli.detectors.base import Detector, learned
from neroli.fitting import Learning
from neroli.head import LinearHead
from neroli.moments import ClassMeans

_SMALLEST = torch.finfo(torch.float64).tiny


@dataclass(eq=False)
class KLMatching(Detector):
    """KL divergence to the nearest class's mean probabilities: ``min_c KL(p || mean_c)``.

    ``mean_c`` is the mean softmax of the training images *predicted* as c. A class that was never
    predicted has the one-hot vector in its place, as in OpenOOD. Means below the smallest normal
    number of float64 are raised to it, so that their logarithm is finite.

    Source: Hendrycks et al., ICML 2022, arXiv 1911.11132, as the programs of ViM and OpenOOD
    compute it.
    """

    name: ClassVar[str] = "kl_matching"
    paper: ClassVar[Paper | None] = Paper(
        "Hendrycks et al.",
        2022,
        "ICML",
        "1911.11132",
        "Scaling Out-of-Distribution Detection for Real-World Settings",
    )
    measures: ClassVar[str] = "KL divergence of the softmax to the nearest class's mean softmax"
    assumes: ClassVar[tuple[Assumption, ...]] = ("images of every predicted class",)

    log_means: Tensor = learned()
    """Logarithm of every predicted class's mean probabilities, ``[C, C]``."""

    def learn(self, head: LinearHead) -> Learning:
        classes = yield ClassMeans(_probabilities, "predicted")
        means = classes.mean
        one_hot = torch.eye(len(means), dtype=means.dtype, device=means.device)
        means = torch.where(classes.count[:, None] > 0, means, one_hot)
        self.log_means = means.clamp(min=_SMALLEST).log()

    def compute(self, batch: Activations) -> Tensor:
        log_p = batch.logits.log_softmax(dim=1)
        p = log_p.exp()
        divergence = (p * log_p).sum(dim=1, keepdim=True) - p @ self.log_means.T
        nearest: Tensor = divergence.amin(dim=1)
        return nearest


def _probabilities(batch: Activations) -> Tensor:
    """Softmax in float64, so that small ones do not underflow."""
    return batch.logits.double().softmax(dim=1)
