"""WeiPer+KLD: unusual histograms of features and of the logits of perturbed heads."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import ClassVar, Self

import torch
from torch import Tensor

from neroli.activations import Activations
from neroli.detectors.about import Paper, parameter
from neroli.detectors.base import Detector, learned
from neroli.errors import InvalidInput
from neroli.fitting import Learning
from neroli.head import LinearHead
from neroli.histograms import row_counts
from neroli.statistics import Extrema, Mean, Range

_CHUNK = 2**22
"""Perturbed logits held at once."""
_SAVED = 2**22
"""Up to so many numbers the drawn weights are part of the state; more are drawn again."""
_FLOOR_FEATURES, _FLOOR_LOGITS = 0.01, 0.025


@dataclass(eq=False)
class WeiPerKLD(Detector):
    """WeiPer+KLD: divergence of an image's histograms from the mean ones of training images.

    The head is perturbed r times, ``W_k + delta |W_k| eta / |eta|`` with normal eta and the bias as
    it is. One histogram is of the D features of an image, the other of its r C perturbed logits,
    both between the training extremes; KL is the symmetric divergence from their means over the
    training images, after smoothing the image's histogram by a moving average, adding 0.01
    (features) or 0.025 (logits) to both, and normalising again:
    ``S = KL_features + lambda_1 KL_logits - lambda_2 mean_i max softmax(z_i)``.

    Args:
        r: number of perturbed heads.
        delta: size of the perturbation.
        bins: of both histograms.
        lambda_1: weight of the divergence of the perturbed logits.
        lambda_2: weight of the mean confidence of the perturbed heads.
        smoothing_features: width in bins of the moving average over the features' histogram.
        smoothing_logits: the same of the perturbed logits'.
        seed: of the perturbations; ``use_perturbed`` sets them outright.

    Published (delta, bins, lambda_1, lambda_2, smoothing_features, smoothing_logits), all with
    r = 100: CIFAR-10 ResNet-18 (1.8, 100, 2.5, 0.1, 4, 15), CIFAR-100 (2.4, 100, 0.1, 1, 4, 40),
    ImageNet ResNet-50 (2.4, 100, 2.5, 0.25, 40, 15), ImageNet ViT-B/16 (2.0, 80, 2.5, 0.1, 40, 15).
    The authors' program draws new perturbations for every batch; here they are drawn once, so that
    a score does not change. Above 1,000 features it averages the histograms of chunks of 1,000,
    unweighted; here it is one histogram. Drawn weights of more than four million numbers are not
    saved but drawn again; they take r C D numbers of memory (820 MB
    on ImageNet in float32, and three times that while they are drawn and fitted).

    Source: Granz et al., NeurIPS 2024, arXiv 2405.17164, and the authors' program.
    """

    name: ClassVar[str] = "weiper_kld"
    paper: ClassVar[Paper | None] = Paper(
        "Granz et al.",
        2024,
        "NeurIPS",
        "2405.17164",
        "WeiPer: OOD Detection using Weight Perturbations of Class Projections",
    )
    measures: ClassVar[str] = "divergence of histograms of features and perturbed logits"

    r: int = parameter(100, "perturbed heads", within=(1, 10_000))
    delta: float = parameter(1.8, "size of the perturbation", within=(0, 1e6))
    bins: int = parameter(100, "bins of a histogram", within=(2, 100_000))
    lambda_1: float = parameter(2.5, "weight of the perturbed logits' divergence", within=(0, 1e6))
    lambda_2: float = parameter(0.1, "weight of the perturbed heads' confidence", within=(0, 1e6))
    smoothing_features: int = parameter(4, "bins the features' average goes over", within=(1, 1e5))
    smoothing_logits: int = parameter(15, "bins the logits' average goes over", within=(1, 1e5))
    seed: int = parameter(0, "of the perturbations", within=(0, 2**32))

    ranges: Tensor = learned()
    """Smallest and largest feature and perturbed logit of the training images, ``[2, 2]``."""
    usual: Tensor = learned()
    """Mean histograms of features and of perturbed logits, ``[2, bins]``."""
    perturbed: Tensor = learned()
    """Weights of the perturbed heads, ``[r C, D]``; ``[0, D]`` where they are drawn again."""

    _given: Tensor | None = field(default=None, init=False, repr=False, compare=False)

    def use_perturbed(self, weight: Tensor) -> Self:
        """Fit with these weights ``[r C, D]``, head after head, instead of drawing them.

        Fitting saves them with the state; they stay in use until others are given.
        """
        self._given = weight.detach().to(torch.float64)
        return self

    def learn(self, head: LinearHead) -> Learning:
        weight = None if self._given is None else self._given.to(head.weight.device)
        if weight is None:
            weight = perturbed_weights(head, self.r, self.delta, self.seed)
        elif weight.shape != (self.r * head.num_classes, head.num_features):
            raise InvalidInput(
                f"The weights of {self.r} perturbed heads must have shape "
                f"[{self.r * head.num_classes}, {head.num_features}], got {list(weight.shape)}."
            )
        heads = _PerturbedHeads(weight, head.bias)
        of_features, of_logits = yield Extrema("features"), Extrema(_Extremes(heads))
        features, logits = yield (
            Mean(_FeatureHistogram(of_features, self.bins)),
            Mean(_LogitHistogram(heads, of_logits, self.bins)),
        )
        self.usual = torch.stack([features, logits])
        ranges = [[found.low, found.high] for found in (of_features, of_logits)]
        self.ranges = torch.tensor(ranges, dtype=torch.float64)
        drawn = self._given is None and weight.numel() > _SAVED
        self.perturbed = weight[:0].clone() if drawn else weight

    def compute(self, batch: Activations) -> Tensor:
        assert self.head is not None
        of_features, of_logits = (Range(low, high) for low, high in self.ranges.tolist())
        features = _FeatureHistogram(of_features, self.bins)(batch)
        logits = torch.zeros_like(features)
        confidence = torch.zeros_like(features[:, 0])
        for part in self._heads.logits(batch.features):
            logits += row_counts(part.flatten(1), of_logits, self.bins)
            confidence += part.softmax(dim=2).amax(dim=2).sum(dim=1)
        logits /= self.r * batch.num_classes
        unusual = _divergence(self.usual[0], features, self.smoothing_features, _FLOOR_FEATURES)
        more = _divergence(self.usual[1], logits, self.smoothing_logits, _FLOOR_LOGITS)
        return unusual + self.lambda_1 * more - self.lambda_2 * confidence / self.r

    @property
    def _heads(self) -> _PerturbedHeads:
        """The perturbed heads; drawn again at most once for each dtype and device."""
        assert self.head is not None
        if "_drawn" not in self.__dict__:
            weight = self.perturbed
            if not len(weight):
                weight = perturbed_weights(self.head, self.r, self.delta, self.seed).to(weight)
            self.__dict__["_drawn"] = _PerturbedHeads(weight, self.head.bias)
        drawn: _PerturbedHeads = self.__dict__["_drawn"]
        return drawn


@dataclass(frozen=True, eq=False)
class _PerturbedHeads:
    """Heads that differ in their weights ``[r C, D]`` and share a bias ``[C]``."""

    weight: Tensor
    bias: Tensor

    def logits(self, features: Tensor) -> Iterator[Tensor]:
        """Logits ``[N, heads, C]``, of some of the heads at a time."""
        weight, bias = self.weight.to(features), self.bias.to(features)
        classes = len(bias)
        step = max(1, _CHUNK // max(1, len(features) * classes)) * classes
        for start in range(0, len(weight), step):
            part = features @ weight[start : start + step].T
            yield part.reshape(len(part), -1, classes) + bias


@dataclass(frozen=True, eq=False)
class _Extremes:
    """Smallest and largest perturbed logit of every image, ``[N, 2]``."""

    heads: _PerturbedHeads

    def __call__(self, batch: Activations) -> Tensor:
        parts = [part.flatten(1) for part in self.heads.logits(batch.quantity("features"))]
        low = torch.stack([part.amin(dim=1) for part in parts], dim=1)
        high = torch.stack([part.amax(dim=1) for part in parts], dim=1)
        return torch.stack([low.amin(dim=1), high.amax(dim=1)], dim=1)


@dataclass(frozen=True)
class _FeatureHistogram:
    """Share of an image's features in every bin, ``[N, bins]``."""

    range: Range
    bins: int

    def __call__(self, batch: Activations) -> Tensor:
        return row_counts(batch.features, self.range, self.bins) / batch.num_features


@dataclass(frozen=True, eq=False)
class _LogitHistogram:
    """Share of an image's perturbed logits in every bin, ``[N, bins]``."""

    heads: _PerturbedHeads
    range: Range
    bins: int

    def __call__(self, batch: Activations) -> Tensor:
        features = batch.quantity("features")
        counts = features.new_zeros(len(batch), self.bins)
        for part in self.heads.logits(features):
            counts += row_counts(part.flatten(1), self.range, self.bins)
        return counts / len(self.heads.weight)


def perturbed_weights(head: LinearHead, number: int, delta: float, seed: int) -> Tensor:
    """Weights ``[number C, D]`` in float64 on the head's device, drawn on the CPU from the seed."""
    draw = torch.Generator().manual_seed(seed)
    weight = head.weight.to(torch.float64)
    size = delta * weight.norm(dim=1, keepdim=True)
    heads = weight.new_empty(number, *weight.shape)
    for one in heads:
        direction = torch.randn(weight.shape, generator=draw, dtype=torch.float64).to(weight.device)
        one.copy_(weight + size * direction / direction.norm(dim=1, keepdim=True))
    return heads.flatten(0, 1)


def _divergence(usual: Tensor, histograms: Tensor, width: int, floor: float) -> Tensor:
    """Symmetric KL of histograms ``[N, bins]`` from the usual one, ``[N]``."""
    left = (width - 1) // 2
    before = histograms[:, :1].expand(-1, left)
    after = histograms[:, -1:].expand(-1, width - 1 - left)
    padded = torch.cat([before, histograms, after], dim=1)
    smooth = padded.unfold(1, width, 1).mean(dim=2) + floor
    smooth = smooth / smooth.sum(dim=1, keepdim=True)
    expected = (usual + floor) / (usual + floor).sum()
    return ((expected - smooth) * (expected.log() - smooth.log())).sum(dim=1)
