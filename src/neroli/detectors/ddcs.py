"""DDCS: the energy of the logits from the channels that tell the classes apart."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from neroli.activations import Activations
from neroli.assumptions import Assumption
from neroli.detectors.about import Paper, parameter
from neroli.detectors.base import Detector, learned
from neroli.errors import InvalidInput, NotEnoughImages
from neroli.fitting import Learning
from neroli.head import LinearHead
from neroli.moments import ClassMoments, Labelling
from neroli.statistics import Extrema, Quantiles

_LEVELS = (0.2, 0.9)


@dataclass(eq=False)
class DDCS(Detector):
    """DDCS: energy of the logits from discriminative channels, with low and high values tamed.

    LHAct raises activations below l to l and takes those from h on to
    ``x / sqrt(1 + (x / h)^4) + l``, which falls again. With ``mu`` the class means of what it
    gives, ``S_j`` the mean of ``mu_cj mu_c'j`` over pairs of different classes and ``V_j`` the
    unbiased variance of ``mu_cj`` over classes, the channels with the smallest
    ``alpha S_j - (1 - alpha) V_j`` are kept: ``score = -log sum_k exp(W (kept LHAct(a)) + b)``.

    Args:
        alpha: weight of the similarity S of the classes against the variance V.
        channels: how many are kept; None takes the authors' share, floor(1050 / 1280 D).
        low: l; None takes the 20 % quantile of all training activations.
        high: h; None takes their 90 % quantile.
        labels: class means over the "true" or over the "predicted" class; the paper's are true.

    The authors give values for MobileNetV2 on ImageNet alone: l = 0.07878, h = 1.3361, of 2,000
    held-out images; here the quantiles are of the training images, exact to a bin of their range
    over 2^18. LHAct jumps at h. If the learned h is the smallest activation (90 % of them are
    zero), or not positive, high activations are left as they are. Classes without any training
    image are left out of S and V; NotEnoughImages is raised if less than two have one.

    On features of a CIFAR-10 DenseNet it ranks the wrong way round: AUROC 0.33 with 280 of 342
    channels, 0.38 with 281 (the authors' program gives the same) and 0.37 with all, so by LHAct.

    Source: Yuan et al., CVPR 2024, and the authors' program.
    """

    name: ClassVar[str] = "ddcs"
    paper: ClassVar[Paper | None] = Paper(
        "Yuan et al.",
        2024,
        "CVPR",
        "",
        "Discriminability-Driven Channel Selection for Out-of-Distribution Detection",
    )
    measures: ClassVar[str] = "energy of the logits from channels that discriminate classes"
    assumes: ClassVar[tuple[Assumption, ...]] = (
        "non-negative features",
        "images of every class",
    )

    alpha: float = parameter(0.8, "weight of the similarity of classes", within=(0, 1))
    channels: int | None = parameter(
        None, "channels kept; None: floor(1050 / 1280) of the features", at_least=1
    )
    low: float | None = parameter(None, "lower bound; None: 20 % quantile", within=(-1e30, 1e30))
    high: float | None = parameter(None, "where damping sets in; None: 90 % quantile", above=0)
    labels: Labelling = parameter("true", "class means over the true or the predicted class")

    bounds: Tensor = learned()
    """l and h, ``[2]``; nothing is damped where h is not positive."""
    kept: Tensor = learned()
    """Which channels are kept, ``[D]``, boolean."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.low is not None and self.high is not None and self.low >= self.high:
            raise InvalidInput(f"low must be below high={self.high}, got {self.low}.")

    def learn(self, head: LinearHead) -> Learning:
        size, classes = head.num_features, head.num_classes
        kept = self.channels or max(1, size * 1050 // 1280)
        if kept > size:
            raise InvalidInput(f"channels must be at most the {size} features, got {kept}.")
        if classes < 2:
            raise InvalidInput(
                f"DDCS compares classes and needs at least two, got {classes}: take another "
                "detector for this network."
            )
        given = (self.low, self.high)
        low, high = given
        if low is None or high is None:
            extremes = yield Extrema("features")
            quantiles = Quantiles("features", extremes, _LEVELS)
            found = (yield quantiles).tolist()
            if found[1] - extremes.low <= (extremes.high - extremes.low) / quantiles.bins:
                found[1] = 0.0  # no more than rounding above the smallest activation
            low, high = (f if g is None else g for f, g in zip(found, given, strict=True))
        self.bounds = torch.tensor([low, high], dtype=torch.float64)
        moments = yield ClassMoments(_LHAct(low, high), self.labels, allow_empty=True)
        means = moments.mean[moments.count > 0]
        if len(means) < 2:
            raise NotEnoughImages(
                f"DDCS compares classes, and all training images are of class "
                f"{int(moments.count.argmax())}: give images of at least one more."
            )
        classes = len(means)
        # sum over c != c' of mu_c mu_c' = (sum mu)^2 - sum mu^2: no C x C x D products
        pairs = means.sum(dim=0).square() - means.square().sum(dim=0)
        similarity = pairs / (classes * (classes - 1))
        badness = self.alpha * similarity - (1 - self.alpha) * means.var(dim=0)
        self.kept = torch.zeros(size, dtype=torch.bool, device=means.device)
        self.kept[badness.argsort(stable=True)[:kept]] = True

    def compute(self, batch: Activations) -> Tensor:
        assert self.head is not None
        low, high = self.bounds.tolist()
        tamed = _LHAct(low, high)(batch) * self.kept
        return -self.head(tamed).logsumexp(dim=1)


@dataclass(frozen=True)
class _LHAct:
    """Features with low values raised and high ones damped, ``[N, D]``."""

    low: float
    high: float

    def __call__(self, batch: Activations) -> Tensor:
        raised = batch.features.clamp(min=self.low)
        if self.high <= 0:
            return raised
        damped = raised / (1 + (raised / self.high).pow(4)).sqrt() + self.low
        return torch.where(raised >= self.high, damped, raised)
