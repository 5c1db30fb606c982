"""NECO: how much of the features lies in the subspace that neural collapse leaves to ID images."""

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


@dataclass(eq=False)
class NECO(Detector):
    """Minus the share of the standardised features that lies on their first principal components.

    ``-||P a'|| / ||a'||``, times ``max z`` if ``max_logit``: ``a'`` are the features less their
    mean, over their standard deviation (1 for a constant feature), P the first ``components``
    principal directions of a' on training, without any that do not vary. Features equal to the mean
    have a share of 1.

    Args:
        components: how many; the paper's d, which differs by network and should be tuned. None
            takes the 100 of the NERO authors' comparison, or half of the features if that is less.
        max_logit: multiply by the largest logit, as the authors do for all networks but ResNet.

    The numerator and the denominator use the same features; the authors' program divides by the raw
    ones for DeiT and Swin.

    Source: Ben Ammar et al., ICLR 2024, arXiv 2310.06823, and the authors' program.
    """

    name: ClassVar[str] = "neco"
    paper: ClassVar[Paper | None] = Paper(
        "Ben Ammar et al.",
        2024,
        "ICLR",
        "2310.06823",
        "NECO: NEural Collapse Based Out-of-distribution detection",
    )
    measures: ClassVar[str] = "share of the features outside of the first principal components"
    assumes: ClassVar[tuple[Assumption, ...]] = ("more images than features", "positive logits")

    components: int | None = parameter(
        None, "principal components; None: 100, or half of the features", at_least=1
    )
    max_logit: bool = parameter(True, "multiply by the largest logit")

    centre: Tensor = learned()
    """Mean features, ``[D]``."""
    scale: Tensor = learned()
    """Standard deviation of the features, ``[D]``; 1 where it is zero."""
    directions: Tensor = learned()
    """First principal directions of the standardised features, ``[D, d]``."""

    @property
    def assumed(self) -> tuple[Assumption, ...]:
        return tuple(a for a in self.assumes if a != "positive logits" or self.max_logit)

    def learn(self, head: LinearHead) -> Learning:
        size = head.num_features
        if self.components is not None and self.components > size:
            raise InvalidInput(
                f"components is {self.components}, but this model has only {size} features."
            )
        wanted = self.components or max(1, min(100, size // 2))
        gaussian = yield Covariance("features")
        deviation = gaussian.covariance.diagonal().sqrt()
        rounding = 10 * torch.finfo(torch.float64).eps * gaussian.mean.abs()
        self.centre, self.scale = gaussian.mean, deviation.where(deviation > rounding, 1.0)
        correlation = gaussian.covariance / torch.outer(self.scale, self.scale)
        variances, directions = torch.linalg.eigh(correlation)
        scale = max(1.0, float(variances[-1]))  # less than 1 only if no feature varies
        varying = int((variances > size * torch.finfo(torch.float64).eps * scale).sum())
        kept = min(wanted, varying)
        self.directions = directions[:, size - kept :].contiguous()

    def compute(self, batch: Activations) -> Tensor:
        standard = (batch.features - self.centre) / self.scale
        norm = standard.norm(dim=1)
        share = (standard @ self.directions).norm(dim=1) / norm
        share = torch.where(norm > 0, share, 1.0)
        return -share * batch.logits.amax(dim=1) if self.max_logit else -share
