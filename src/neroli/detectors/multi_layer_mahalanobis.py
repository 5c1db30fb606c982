"""Mahalanobis distance at several layers of the network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from neroli.activations import Activations
from neroli.assumptions import Assumption
from neroli.detectors.about import Paper, parameter
from neroli.detectors.base import Detector, learned
from neroli.detectors.gaussians import nearest, rounding, whitening, within_classes
from neroli.fitting import Learning
from neroli.head import LinearHead
from neroli.moments import ClassMoments, Covariance, Labelling
from neroli.taps import Requirements, Tap, Tapped, check_named


@dataclass(eq=False)
class MultiLayerMahalanobis(Detector):
    """Mean over layers of the squared Mahalanobis distance to the nearest class, halved.

    ``mean_l min_c 0.5 (f_l - mu_lc)^T S_l^-1 (f_l - mu_lc)`` with ``f_l`` the mean over space of
    what layer l returns. The paper weighs layers by a regression on OOD images, and first steps the
    image towards its class; here all layers weigh the same and there is no step, since nothing of
    OOD images is known.

    Args:
        layers: paths of the layers, as in ``model.named_modules()``; the default is that of
            torchvision's and timm's ResNets.
        shrinkage: of every covariance, as in ``Mahalanobis``.
        labels: class means over the "true" or over the "predicted" class.

    Source: Lee et al., NeurIPS 2018, arXiv 1807.03888, section 2.2.
    """

    name: ClassVar[str] = "multi_layer_mahalanobis"
    paper: ClassVar[Paper | None] = Paper(
        "Lee et al.",
        2018,
        "NeurIPS",
        "1807.03888",
        "A Simple Unified Framework for Detecting Out-of-Distribution Samples and Adversarial "
        "Attacks",
    )
    measures: ClassVar[str] = "Mahalanobis distance to the nearest class, mean over layers"
    assumes: ClassVar[tuple[Assumption, ...]] = (
        "more images than features",
        "images of every class",
    )

    layers: tuple[str, ...] = parameter(
        ("layer1", "layer2", "layer3", "layer4"), "paths of the layers"
    )
    shrinkage: float | None = parameter(
        None, "share of a sphere in the covariances; None: as needed", within=(0, 1)
    )
    labels: Labelling = parameter("true", "class means over the true or the predicted class")

    widths: Tensor = learned()
    """Number of channels of every layer and of its whitened space, ``[L, 2]``."""
    centres: Tensor = learned()
    """Mean of every layer's channels, side by side."""
    whitens: Tensor = learned()
    """What gives every layer unit covariance around its class means, one behind the other."""
    means: Tensor = learned()
    """Whitened class means of every layer, one behind the other."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_named(self.layers)

    @property
    def requires(self) -> Requirements:
        return Requirements(tuple(Tap(layer) for layer in self.layers))

    def learn(self, head: LinearHead) -> Learning:
        layers = [Tapped(str(tap)) for tap in self.requires.taps]
        results = yield (
            *(Covariance(layer) for layer in layers),
            *(ClassMoments(layer, self.labels, allow_empty=True) for layer in layers),
        )
        totals, classes = results[: len(layers)], results[len(layers) :]
        parts = []
        for total, moments in zip(totals, classes, strict=True):
            within = within_classes(total, moments)
            whiten, shrunk = whitening(within, self.shrinkage, rounding(total))
            self.shrunk = max(self.shrunk or 0.0, shrunk)
            means = (moments.mean[moments.count > 0] - total.mean) @ whiten
            parts.append((total.mean, whiten, means))
        self.widths = torch.tensor([list(whiten.shape) for _, whiten, _ in parts])
        self.centres, self.whitens, self.means = (
            torch.cat([part[kind].flatten() for part in parts]) for kind in range(3)
        )

    def compute(self, batch: Activations) -> Tensor:
        widths = self.widths.tolist()
        classes = len(self.means) // sum(kept for _, kept in widths)
        distances, centre, whiten, mean = [], 0, 0, 0
        for tap, (width, kept) in zip(self.requires.taps, widths, strict=True):
            values = batch.taps[str(tap)].to(batch.features)
            centred = values - self.centres[centre : centre + width]
            whitened = centred @ self.whitens[whiten : whiten + width * kept].view(width, kept)
            means = self.means[mean : mean + classes * kept].view(classes, kept)
            distances.append(nearest(whitened, means))
            centre, whiten, mean = centre + width, whiten + width * kept, mean + classes * kept
        return 0.5 * torch.stack(distances).mean(dim=0)
