"""Gram: how far correlations of channels leave the range they had in training."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from neroli.activations import Activations
from neroli.assumptions import Assumption
from neroli.detectors.about import Paper, parameter
from neroli.detectors.base import Detector, learned
from neroli.errors import NotEnoughImages
from neroli.fitting import Learning
from neroli.head import LinearHead
from neroli.moments import Labelling
from neroli.pooling import GramSums
from neroli.statistics import Mean, keyed_hashes
from neroli.tails import ClassBounds
from neroli.taps import Requirements, Tap, Tapped, check_named

_SMALLEST = 1e-6
"""What a bound is at least when it is divided by."""


@dataclass(eq=False)
class Gram(Detector):
    """Gram: deviations of the channels' correlations from the range of the predicted class.

    The Gram matrices of the powers ``F^p`` of a layer's map, p = 1 to ``powers``, are summed over
    rows, with the signed p-th root. A sum below the least or above the largest of its class in
    training deviates by the distance over that bound; ``S = sum_l delta_l / E_l`` with ``delta_l``
    all deviations at layer l and ``E_l`` their mean over the training images that were kept from
    the bounds.

    Args:
        layers: paths of the layers; the default is that of torchvision's and timm's ResNets, the
            paper takes every convolution and activation.
        powers: how many powers.
        held_out: share of the training images, chosen by a hash of their ids, that ``E_l`` is the
            mean over.
        labels: bounds of the "true" or of the "predicted" class.
        by_confidence: divide the score by the probability of the predicted class.
        seed: of that hash.

    Bounds take two numbers for every class, power and channel: 1,000 classes on a ResNet-50 are
    150 MB. A class without any image has the bounds of all. A layer that no held-out image deviates
    at is not divided by its mean.

    Source: Sastry and Oore, ICML 2020, arXiv 1912.12510; the order of sum and root as in the public
    programs. The authors' own was not at hand.
    """

    name: ClassVar[str] = "gram"
    paper: ClassVar[Paper | None] = Paper(
        "Sastry and Oore",
        2020,
        "ICML",
        "1912.12510",
        "Detecting Out-of-Distribution Examples with Gram Matrices",
    )
    measures: ClassVar[str] = "how far correlations of channels leave their range in training"
    assumes: ClassVar[tuple[Assumption, ...]] = ("images of every class",)

    layers: tuple[str, ...] = parameter(
        ("layer1", "layer2", "layer3", "layer4"), "paths of the layers"
    )
    powers: int = parameter(5, "number of powers of the maps", within=(1, 20))
    held_out: float = parameter(0.1, "share of images the layers are weighed by", between=(0, 1))
    labels: Labelling = parameter("predicted", "bounds of the true or the predicted class")
    by_confidence: bool = parameter(False, "divide by the probability of the predicted class")
    seed: int = parameter(0, "of the choice of held-out images", within=(0, 2**32))

    low: Tensor = learned()
    """The least of every class, of all layers side by side, ``[C, K]``."""
    high: Tensor = learned()
    """The largest of every class, of all layers side by side, ``[C, K]``."""
    widths: Tensor = learned()
    """How many sums are of each layer, ``[L]``."""
    usual: Tensor = learned()
    """``E_l``, ``[L]``."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_named(self.layers)

    @property
    def requires(self) -> Requirements:
        return Requirements(tuple(Tap(layer, GramSums(self.powers)) for layer in self.layers))

    def learn(self, head: LinearHead) -> Learning:
        taps = [Tapped(str(tap)) for tap in self.requires.taps]
        held_out = _HeldOut(self.held_out, self.seed)
        bounds = yield tuple(ClassBounds(tap, self.labels, held_out) for tap in taps)
        self.low = torch.cat([layer.low for layer in bounds], dim=1)
        self.high = torch.cat([layer.high for layer in bounds], dim=1)
        self.widths = torch.tensor([layer.low.shape[1] for layer in bounds])
        sums = yield Mean(_HeldOutDeviations(copy.copy(self), held_out))
        if sums[-1] == 0:
            raise NotEnoughImages(
                f"None of the training images fell to the share held_out={self.held_out} by which "
                "Gram weighs the layers: give more images."
            )
        self.usual = torch.where(sums[:-1] > 0, sums[:-1] / sums[-1], 1.0)

    def compute(self, batch: Activations) -> Tensor:
        scores = (self.deviations(batch) / self.usual).sum(dim=1)
        return scores / batch.logits.softmax(dim=1).amax(dim=1) if self.by_confidence else scores

    def deviations(self, batch: Activations) -> Tensor:
        """How far each layer's sums leave the bounds of the predicted class, ``[N, L]``."""
        found, start = [], 0
        for tap, width in zip(self.requires.taps, self.widths.tolist(), strict=True):
            low, high = (
                bound[batch.predictions, start : start + width] for bound in (self.low, self.high)
            )
            values = batch.taps[str(tap)].to(low)
            below = (low - values).clamp(min=0) / low.abs().clamp(min=_SMALLEST)
            above = (values - high).clamp(min=0) / high.abs().clamp(min=_SMALLEST)
            found.append((below + above).sum(dim=1))
            start += width
        return torch.stack(found, dim=1)


@dataclass(frozen=True)
class _HeldOut:
    """Which images are kept from the bounds, 1 or 0, ``[N]``: a quantity for statistics."""

    share: float
    seed: int

    def __call__(self, batch: Activations) -> Tensor:
        hashes = keyed_hashes(batch, "features", self.seed)
        chosen = torch.from_numpy(hashes.astype(np.float64) < self.share * 2.0**64)
        return chosen.to(batch.features)


@dataclass(frozen=True, eq=False)
class _HeldOutDeviations:
    """Deviations of held-out images, 0 of others, and which these are: a quantity, [N, L + 1]."""

    bounds: Gram
    held_out: _HeldOut

    def __call__(self, batch: Activations) -> Tensor:
        chosen = batch.quantity(self.held_out)[:, None]
        return torch.cat([self.bounds.deviations(batch) * chosen, chosen], dim=1)
