"""fDBD: distance of the features to the decision boundaries."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from neroli.activations import Activations
from neroli.detectors.about import Paper
from neroli.detectors.base import Detector, learned
from neroli.fitting import Learning
from neroli.head import LinearHead
from neroli.statistics import Mean


@dataclass(eq=False)
class FDBD(Detector):
    """Minus the distance to the decision boundaries, over that to the mean of training features.

    ``-sum_k (z_c - z_k) / ||w_c - w_k|| / ||a - m||`` with c the predicted class: every summand is
    the distance to the boundary between c and k. The sum is the authors' program's; the paper's
    mean differs by a constant. Classes with the same weights have no boundary between them and add
    nothing. The distance to the mean m is at least the dtype's epsilon.

    Source: Liu and Qin, ICML 2024, arXiv 2312.11536, and the authors' program.
    """

    name: ClassVar[str] = "fdbd"
    paper: ClassVar[Paper | None] = Paper(
        "Liu and Qin",
        2024,
        "ICML",
        "2312.11536",
        "Fast Decision Boundary based Out-of-Distribution Detector",
    )
    measures: ClassVar[str] = "distance of the features to the decision boundaries"

    centre: Tensor = learned()
    """Mean features, ``[D]``."""
    per_logit: Tensor = learned()
    """``1 / ||w_c - w_k||``, ``[C, C]``; 0 where the weights are the same."""

    def learn(self, head: LinearHead) -> Learning:
        self.centre = yield Mean("features")
        weight = head.weight.double()
        gram = weight @ weight.T  # instead of a C x C x D array of differences
        norms = gram.diagonal()
        squares = norms[:, None] + norms - 2 * gram
        rounding = 8 * torch.finfo(torch.float64).eps * (norms[:, None] + norms)
        self.per_logit = torch.where(squares > rounding, squares, torch.inf).rsqrt()

    def compute(self, batch: Activations) -> Tensor:
        largest, predicted = batch.logits.max(dim=1, keepdim=True)
        boundaries = (largest - batch.logits) * self.per_logit[predicted[:, 0]]
        distance: Tensor = (batch.features - self.centre).norm(dim=1)
        total: Tensor = boundaries.sum(dim=1)
        return -total / distance.clamp(min=torch.finfo(distance.dtype).eps)
