"""ITP: the energy of the logits without contributions that are usually small or unusually large."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from neroli.activations import Activations
from neroli.assumptions import Assumption
from neroli.detectors.about import Paper, parameter
from neroli.detectors.base import Detector, learned
from neroli.fitting import Learning
from neroli.head import LinearHead
from neroli.moments import ClassMoments, Labelling

_CHUNK = 2**20
"""Contributions held at once while scoring."""


@dataclass(eq=False)
class ITP(Detector):
    """ITP: energy of the logits after pruning weights for all images and for each image.

    The contribution of neuron j to the logit of class k is ``v_kj = W_kj a_j``, with mean m_kj and
    standard deviation s_kj over the training images of class k. Kept are contributions whose mean
    lies above a percentile of all C D means, and that are not unusually large themselves,
    ``v_kj < m_kj + z s_kj``; ``S = -log sum_k exp(sum_j kept v_kj + b_k)``. For a linear head
    ``m_kj = W_kj mu_kj`` and ``s_kj = |W_kj| sigma_kj``: the moments of the features suffice.

    Args:
        percentile: share of the contributions removed for all images, in %.
        z: above how many standard deviations a contribution is removed from an image's logits.
        labels: moments over the "true" or over the "predicted" class; the paper's are true.

    Published settings (percentile, z): CIFAR-10 (10, 2.2) and CIFAR-100 (20, 1.6) on DenseNet-101,
    ImageNet (30, 1.5) on ResNet-50. The standard deviation is the unbiased one; a class with a
    single training image has none, and of its contributions none is removed as too large; one
    without any has the moments of all images. Scores are computed for some classes at a time:
    nothing of the size N x C x D is built.

    Source: Xu and Yang, AAAI 2025, arXiv 2412.12566, and the authors' program.
    """

    name: ClassVar[str] = "itp"
    paper: ClassVar[Paper | None] = Paper(
        "Xu and Yang",
        2025,
        "AAAI",
        "2412.12566",
        "ITP: Instance-Aware Test Pruning for Out-of-Distribution Detection",
    )
    measures: ClassVar[str] = "energy of the logits from contributions neither small nor excessive"
    assumes: ClassVar[tuple[Assumption, ...]] = ("images of every class",)

    percentile: float = parameter(10.0, "% of contributions removed for all", within=(0, 100))
    z: float = parameter(2.2, "standard deviations above which one is removed", within=(0, 1e9))
    labels: Labelling = parameter("true", "moments over the true or the predicted class")

    weight: Tensor = learned()
    """The head's weight, zero where contributions are removed for all images, ``[C, D]``."""
    limit: Tensor = learned()
    """From where on a contribution is removed, ``[C, D]``."""

    def learn(self, head: LinearHead) -> Learning:
        classes = (yield ClassMoments("features", self.labels, allow_empty=True)).filled()
        weight = head.weight.to(classes.mean)
        mean = weight * classes.mean
        cut = float(np.percentile(mean.cpu().numpy(), self.percentile))
        self.weight = weight.where(mean > cut, 0.0)
        count = classes.count[:, None]
        deviation = (classes.variance * count / (count - 1).clamp(min=1)).sqrt()
        limit = mean + self.z * weight.abs() * deviation
        self.limit = limit.where(count > 1, torch.inf)

    def compute(self, batch: Activations) -> Tensor:
        assert self.head is not None
        features = batch.features[:, None]
        logits = torch.empty_like(batch.logits)
        step = max(1, _CHUNK // max(1, batch.features.numel()))
        for start in range(0, batch.num_classes, step):
            rows = slice(start, start + step)
            contributions = features * self.weight[rows]
            logits[:, rows] = (contributions * (contributions < self.limit[rows])).sum(dim=2)
        return -(logits + self.head.bias).logsumexp(dim=1)
