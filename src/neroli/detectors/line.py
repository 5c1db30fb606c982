"""LINe: the energy of what the important neurons contribute to the predicted class."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from neroli.activations import Activations
from neroli.assumptions import Assumption
from neroli.detectors.about import Paper, parameter
from neroli.detectors.base import Detector, learned
from neroli.detectors.shares import ENTROPY, Shares, energy_shares
from neroli.errors import InvalidInput
from neroli.fitting import Learning
from neroli.head import LinearHead
from neroli.moments import ClassMoments, Labelling
from neroli.statistics import Extrema, Quantiles

_CLIP_QUANTILE = 0.95


@dataclass(eq=False)
class LINe(Detector):
    """LINe: energy of the logits after keeping only the neurons and weights that matter.

    Features are clipped, the class predicted from them, and the neurons and weights with a small
    contribution to that class removed; the score is minus the log-sum-exp of the logits left. The
    contribution of neuron j to class c is its mean first-order Shapley (Taylor) value over the
    class's training images, which for a linear head is ``W_cj mean(a_j)``.

    An absolute ``clip`` does not carry over to another network, so the default takes the 95 %
    quantile of all training activations, with 90/10. Mean AUROC/FPR95 in % over seven OOD sets:
    CIFAR-10 ResNet-20 93.2/33.2 (published CIFAR-10 setting: 87.0/43.4), ResNet-56 91.4/36.0
    (84.4/41.8), and on the DenseNet the published values were chosen on 93.1/29.6 (93.9/28.4).
    Made for features behind a ReLU; it runs on others (ViT), untested by its authors. For a class
    without any training image the mean of all stands in.

    Args:
        weight_percentile: share of weights removed for each predicted class, in %.
        activation_percentile: share of neurons removed for each predicted class, in %.
        clip: activations are cut off here; None learns it as above.
        labels: class means over the "true" or over the "predicted" class.

    Source: Ahn et al., CVPR 2023, arXiv 2303.13995, and the authors' program.
    """

    name: ClassVar[str] = "line"
    paper: ClassVar[Paper | None] = Paper(
        "Ahn et al.",
        2023,
        "CVPR",
        "2303.13995",
        "LINe: Out-of-Distribution Detection by Leveraging Important Neurons",
    )
    measures: ClassVar[str] = "energy of the logits from important neurons and weights alone"
    assumes: ClassVar[tuple[Assumption, ...]] = (
        "non-negative features",
        "images of every class",
    )
    published_settings: ClassVar[dict[str, tuple[float, float, float]]] = {
        "cifar10": (90.0, 90.0, 1.0),
        "cifar100": (90.0, 10.0, 1.0),
        "imagenet": (10.0, 10.0, 0.8),
    }
    """weight_percentile, activation_percentile and clip of the paper, by training data."""

    weight_percentile: float = parameter(90.0, "% of weights removed", within=(0, 100))
    activation_percentile: float = parameter(10.0, "% of neurons removed", within=(0, 100))
    clip: float | None = parameter(
        None, "where activations are clipped; None: their 95 % quantile", above=0
    )
    labels: Labelling = parameter("true", "class means over the true or the predicted class")

    threshold: Tensor = learned()
    """Where activations are clipped, a scalar."""
    rank: Tensor = learned()
    """How many weights of the same column are greater, ``[C, D]``."""
    kept: Tensor = learned()
    """How many of a column's greatest weights are kept for each predicted class, ``[C, D]``; none
    of a removed neuron's."""

    @classmethod
    def published(cls, dataset: str) -> LINe:
        """LINe with the paper's setting for a network trained on cifar10, cifar100 or imagenet.

        Raises:
            InvalidInput: if the paper has none for this data set.
        """
        if dataset not in cls.published_settings:
            raise InvalidInput(
                f"LINe has no published setting for {dataset!r}, only for "
                f"{', '.join(cls.published_settings)}."
            )
        return cls(*cls.published_settings[dataset])

    def learn(self, head: LinearHead) -> Learning:
        means = ClassMoments("features", self.labels, allow_empty=True)
        if self.clip is None:
            classes, extremes = yield means, Extrema("features")
            self.threshold = (yield Quantiles("features", extremes, (_CLIP_QUANTILE,)))[0]
        else:
            classes = yield means
            self.threshold = torch.tensor(self.clip, dtype=torch.float64)
        weight = head.weight.double().cpu().numpy()
        contribution = classes.filled().mean.cpu().numpy() * weight
        cut = np.percentile(contribution, self.activation_percentile, axis=1, keepdims=True)
        dtype = np.int16 if head.num_classes <= np.iinfo(np.int16).max else np.int32
        self.rank = torch.from_numpy(_descending_rank(weight).astype(dtype))
        kept = np.stack([self._weights_kept(np.abs(row), weight) for row in contribution])
        self.kept = torch.from_numpy(np.where(contribution > cut, kept, 0).astype(dtype))

    def _weights_kept(
        self, importance: np.ndarray[Any, Any], weight: np.ndarray[Any, Any]
    ) -> np.ndarray[Any, Any]:
        """How many weights of every column pass the percentile over all C D weighted ones.

        As importance is not negative, these are the greatest of the column: a count says which, so
        that no mask of C x C x D is ever kept.
        """
        weighted = importance * weight
        kept = weighted > np.percentile(weighted, self.weight_percentile)
        return np.asarray(np.count_nonzero(kept, axis=0))

    def compute(self, batch: Activations) -> Tensor:
        assert self.head is not None
        scores = torch.empty_like(batch.features[:, 0])
        for rows, clipped, weight in self._by_prediction(batch):
            logits = clipped @ weight.T + self.head.bias
            scores[rows] = -logits.logsumexp(dim=1)
        return scores

    def split(self, batch: Activations) -> Shares:
        """Of the energy of the clipped activations over the weights that are kept."""
        assert self.head is not None
        parts = torch.empty_like(batch.features)
        ends = batch.features.new_empty(len(batch), 2)
        for rows, clipped, weight in self._by_prediction(batch):
            shares = energy_shares(clipped, LinearHead(weight, self.head.bias))
            parts[rows] = shares.neurons
            ends[rows] = torch.stack([shares.bias, shares.rest], dim=1)
        return Shares(parts, ends[:, 0], ends[:, 1], ENTROPY)

    def _by_prediction(self, batch: Activations) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """For each predicted class its rows, their clipped activations, and its weights."""
        assert self.head is not None
        clipped = batch.features.clamp(max=float(self.threshold))
        predictions = self.head(clipped).argmax(dim=1)
        for predicted in torch.unique(predictions).tolist():
            rows = (predictions == predicted).nonzero()[:, 0]
            weight = self.head.weight.where(self.rank < self.kept[predicted], 0.0)
            yield rows, clipped[rows], weight


def _descending_rank(weight: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """For every entry, how many in its column are greater; ties share a rank."""
    ascending = np.sort(weight, axis=0)
    not_greater = np.empty(weight.shape, dtype=np.int64)
    for column in range(weight.shape[1]):
        not_greater[:, column] = np.searchsorted(
            ascending[:, column], weight[:, column], side="right"
        )
    return len(weight) - not_greater
