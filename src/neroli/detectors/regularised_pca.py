"""Regularised PCA: the energy, lowered by what principal components miss of the features."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from neroli.activations import Activations
from neroli.assumptions import Assumption
from neroli.detectors.about import Paper, parameter
from neroli.detectors.base import Detector, learned
from neroli.errors import InvalidInput
from neroli.fitting import Learning
from neroli.head import LinearHead
from neroli.moments import Covariance
from neroli.statistics import Extrema, Quantiles

_CLIP_QUANTILE = 0.9


@dataclass(eq=False)
class RegularisedPCA(Detector):
    """Energy of clipped features times one minus their relative reconstruction error.

    ``-LSE(W min(a, clip) + b) (1 - r)`` with ``r = ||(I - U U^T)(a - m)|| / ||a||``: m is the mean
    and U the first principal directions of the training features. ``||a||`` is at least the dtype's
    epsilon times ``||m||``, so that vanishing features score high and finite. Meant for logits with
    a positive log-sum-exp.

    Args:
        components: number of principal directions; None takes the authors' 256 (ResNet-50), or half
            of the features where that is less. Directions in which nothing varies are not used.
        clip: activations are cut off here, in the energy alone; None learns their 90 % quantile, to
            which the authors' 1.0 belongs on ResNet-50.

    r is of the features as they are. The authors' program clips them for OOD images but not for ID
    ones (where it clips the norm alone), which no detector can know.

    Source: Guan et al., ICCV 2023, and the authors' program.
    """

    name: ClassVar[str] = "regularised_pca"
    paper: ClassVar[Paper | None] = Paper(
        "Guan et al.",
        2023,
        "ICCV",
        "",
        "Revisit PCA-based Technique for Out-of-Distribution Detection",
    )
    measures: ClassVar[str] = "energy, lowered by what principal components miss of the features"
    assumes: ClassVar[tuple[Assumption, ...]] = (
        "non-negative features",
        "positive energy",
        "more images than features",
    )

    components: int | None = parameter(
        None, "principal components; None: 256, or half of the features", at_least=1
    )
    clip: float | None = parameter(
        None, "where activations are clipped; None: their 90 % quantile", above=0
    )

    centre: Tensor = learned()
    """Mean features, ``[D]``."""
    directions: Tensor = learned()
    """Principal directions, ``[D, k]``."""
    threshold: Tensor = learned()
    """Where activations are clipped, a scalar."""

    def learn(self, head: LinearHead) -> Learning:
        size = head.num_features
        if self.components is not None and self.components > size:
            raise InvalidInput(
                f"components is {self.components}, but this model has only {size} features."
            )
        wanted = self.components or max(1, min(256, size // 2))
        if self.clip is None:
            gaussian, extremes = yield Covariance("features"), Extrema("features")
            self.threshold = (yield Quantiles("features", extremes, (_CLIP_QUANTILE,)))[0]
        else:
            gaussian = yield Covariance("features")
            self.threshold = torch.tensor(self.clip, dtype=torch.float64)
        variances, directions = torch.linalg.eigh(gaussian.covariance)
        scale = variances[-1] + gaussian.mean.square().sum()
        varying = int((variances > size * torch.finfo(torch.float64).eps * scale).sum())
        kept = min(wanted, varying)
        self.centre = gaussian.mean
        self.directions = directions[:, size - kept :].contiguous()

    def compute(self, batch: Activations) -> Tensor:
        assert self.head is not None
        centred = batch.features - self.centre
        missed = centred - (centred @ self.directions) @ self.directions.T
        numbers = torch.finfo(centred.dtype)
        least = float(numbers.eps * self.centre.norm()) + numbers.tiny
        error: Tensor = missed.norm(dim=1) / batch.features.norm(dim=1).clamp(min=least)
        energy: Tensor = self.head(batch.features.clamp(max=float(self.threshold))).logsumexp(dim=1)
        return energy * (error - 1)
