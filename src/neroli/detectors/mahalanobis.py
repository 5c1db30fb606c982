"""Mahalanobis distance to the nearest class, plain and relative to that to all images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from neroli.activations import Activations
from neroli.assumptions import Assumption
from neroli.detectors.about import Paper, parameter
from neroli.detectors.base import Detector, learned
from neroli.detectors.gaussians import (
    nearest,
    nearest_shares,
    rounding,
    whitening,
    within_classes,
)
from neroli.detectors.shares import Shares, neurons_alone
from neroli.fitting import Learning
from neroli.head import LinearHead
from neroli.moments import ClassMoments, Covariance, Labelling


@dataclass(eq=False)
class Mahalanobis(Detector):
    """Squared Mahalanobis distance of the features to the nearest class.

    ``min_c (a - mu_c)^T S^-1 (a - mu_c)`` with one covariance S around the class means, divided by
    the number of images. This is the penultimate layer alone, without the paper's input step and
    weights of layers. A class without any image is left out.

    Args:
        shrinkage: S is mixed with ``tr(S)/D I`` in this share; None mixes only of fewer than
            four images a feature or where S is singular (a variance below 1e-12 of the largest:
            dead neurons), in the share of Chen et al. 2010 (OAS), and 0 never, but leaves
            directions without variance out. Images that are all the same give Euclidean distances.
        labels: class means over the "true" or over the "predicted" class.

    Source: Lee et al., NeurIPS 2018, arXiv 1807.03888, eq. 1 and 2. Compared with the scores of
    a public program, but not read against the authors' own.
    """

    name: ClassVar[str] = "mahalanobis"
    paper: ClassVar[Paper | None] = Paper(
        "Lee et al.",
        2018,
        "NeurIPS",
        "1807.03888",
        "A Simple Unified Framework for Detecting Out-of-Distribution Samples and Adversarial "
        "Attacks",
    )
    measures: ClassVar[str] = "Mahalanobis distance of the features to the nearest class"
    assumes: ClassVar[tuple[Assumption, ...]] = (
        "more images than features",
        "images of every class",
    )

    shrinkage: float | None = parameter(
        None, "share of a sphere in the covariance; None: as needed", within=(0, 1)
    )
    labels: Labelling = parameter("true", "class means over the true or the predicted class")

    centre: Tensor = learned()
    """Mean of all features, ``[D]``."""
    whiten: Tensor = learned()
    """What gives features unit covariance around their class mean, ``[D, K]``."""
    means: Tensor = learned()
    """Whitened class means, ``[C, K]``."""

    def learn(self, head: LinearHead) -> Learning:
        total, classes = yield (
            Covariance("features"),
            ClassMoments("features", self.labels, allow_empty=True),
        )
        self.centre = total.mean
        within = within_classes(total, classes)
        self.whiten, self.shrunk = whitening(within, self.shrinkage, rounding(total))
        self.means = (classes.mean[classes.count > 0] - self.centre) @ self.whiten

    def compute(self, batch: Activations) -> Tensor:
        return nearest((batch.features - self.centre) @ self.whiten, self.means)

    def split(self, batch: Activations) -> Shares:
        """What each neuron adds to the squared distance to the nearest class."""
        return neurons_alone(nearest_shares(batch.features - self.centre, self.whiten, self.means))


@dataclass(eq=False)
class RelativeMahalanobis(Detector):
    """Mahalanobis distance to the nearest class less that to the Gaussian of all images.

    ``min_c d_c - d_0``, both squared: ``d_c`` as in ``Mahalanobis``, ``d_0`` to the mean of all
    training features with their covariance, whatever the class. Both covariances are divided by the
    number of images. A class without any image is left out.

    Args:
        shrinkage: of both covariances, as in ``Mahalanobis``.
        labels: class means over the "true" or over the "predicted" class.

    Source: Ren et al., 2021, arXiv 2106.09022. Compared with the scores of a public program,
    but not read against the authors' own.
    """

    name: ClassVar[str] = "relative_mahalanobis"
    paper: ClassVar[Paper | None] = Paper(
        "Ren et al.",
        2021,
        "",
        "2106.09022",
        "A Simple Fix to Mahalanobis Distance for Improving Near-OOD Detection",
    )
    measures: ClassVar[str] = "Mahalanobis distance to the nearest class less that to all images"
    assumes: ClassVar[tuple[Assumption, ...]] = (
        "more images than features",
        "images of every class",
    )

    shrinkage: float | None = parameter(
        None, "share of a sphere in the covariances; None: as needed", within=(0, 1)
    )
    labels: Labelling = parameter("true", "class means over the true or the predicted class")

    centre: Tensor = learned()
    """Mean of all features, ``[D]``."""
    whiten: Tensor = learned()
    """What gives features unit covariance around their class mean, ``[D, K]``."""
    means: Tensor = learned()
    """Whitened class means, ``[C, K]``."""
    whiten_all: Tensor = learned()
    """What gives features unit covariance around the mean of all, ``[D, K]``."""

    def learn(self, head: LinearHead) -> Learning:
        total, classes = yield (
            Covariance("features"),
            ClassMoments("features", self.labels, allow_empty=True),
        )
        self.centre = total.mean
        within = within_classes(total, classes)
        self.whiten, self.shrunk = whitening(within, self.shrinkage, rounding(total))
        self.means = (classes.mean[classes.count > 0] - self.centre) @ self.whiten
        self.whiten_all, _ = whitening(total, self.shrinkage, rounding(total))

    def compute(self, batch: Activations) -> Tensor:
        centred = batch.features - self.centre
        to_all = (centred @ self.whiten_all).square().sum(dim=1)
        return nearest(centred @ self.whiten, self.means) - to_all

    def split(self, batch: Activations) -> Shares:
        """What each neuron adds to the distance to the nearest class, and takes from it to all."""
        centred = batch.features - self.centre
        to_all = nearest_shares(
            centred, self.whiten_all, self.whiten_all.new_zeros(1, self.whiten_all.shape[1])
        )
        return neurons_alone(nearest_shares(centred, self.whiten, self.means) - to_all)
