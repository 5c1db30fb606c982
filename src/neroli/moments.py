"""Means, variances and covariances as mergeable statistics, over all images or for each class."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, Self

import torch
from torch import Tensor

from neroli.activations import Activations, Quantity
from neroli.errors import NotEnoughImages
from neroli.statistics import Statistic, accumulator, required

Labelling = Literal["true", "predicted"]
"""Which class an image counts for: its label, or what the classifier predicted."""

Counting = Labelling | Literal["correct"]
"""The same, or only images for which both agree."""


@dataclass(frozen=True, eq=False)
class Gaussian:
    """Number of images, mean ``[K]`` and covariance ``[K, K]`` (divided by the number)."""

    count: int
    mean: Tensor
    covariance: Tensor


@dataclass
class Covariance(Statistic[Gaussian]):
    """Mean and covariance over all images, by Chan's update (Chan et al. 1979)."""

    of: Quantity
    _count: int = field(default=0, init=False, repr=False, compare=False)
    _mean: Tensor | None = accumulator()
    _scatter: Tensor | None = accumulator()

    def update(self, batch: Activations) -> None:
        values = batch.quantity(self.of)
        if len(values):  # a quantity may be of some of the images alone
            mean = values.mean(dim=0)
            centred = values - mean
            self._add(len(values), mean, centred.T @ centred)

    def merge(self, other: Self) -> None:
        if other._mean is not None and other._scatter is not None:
            self._add(other._count, other._mean, other._scatter)

    def _add(self, count: int, mean: Tensor, scatter: Tensor) -> None:
        if self._mean is None or self._scatter is None:
            self._count, self._mean, self._scatter = count, mean, scatter
            return
        total = self._count + count
        delta = mean - self._mean
        weight = self._count * count / total
        self._scatter = self._scatter + scatter + weight * torch.outer(delta, delta)
        self._mean = self._mean + delta * (count / total)
        self._count = total

    def finalize(self) -> Gaussian:
        mean, scatter = required(self._mean), required(self._scatter)
        return Gaussian(self._count, mean, scatter / self._count)


@dataclass(frozen=True, eq=False)
class Moments:
    """By class: number ``[C]``, mean ``[C, K]`` and variance ``[C, K]`` (divided by the number)."""

    count: Tensor
    mean: Tensor
    variance: Tensor

    def filled(self) -> Moments:
        """The same, but with the moments over all images for every class without any."""
        together, known = self.pooled(), self.count > 0
        return Moments(
            torch.where(known, self.count, together.count),
            torch.where(known[:, None], self.mean, together.mean),
            torch.where(known[:, None], self.variance, together.variance),
        )

    def pooled(self) -> Moments:
        """The moments over all images, as if they were of one class."""
        total = self.count.sum()
        share = (self.count / total)[:, None]
        mean = (share * self.mean).sum(dim=0)
        variance = (share * (self.variance + (self.mean - mean).square())).sum(dim=0)
        return Moments(total[None], mean[None], variance[None])


@dataclass
class ClassMoments(Statistic[Moments]):
    """Mean and variance of every class.

    Args:
        of: the quantity.
        labels: count an image for its true or for its predicted class, or only if both agree.
        allow_empty: give a class without any image zeros instead of an error.

    ``finalize`` raises NotEnoughImages, naming the first, if a class has no image.
    """

    of: Quantity
    labels: Counting = "true"
    allow_empty: bool = False
    _count: Tensor | None = accumulator()
    _mean: Tensor | None = accumulator()
    _scatter: Tensor | None = accumulator()

    @property
    def needs_labels(self) -> bool:
        return self.labels != "predicted"

    def update(self, batch: Activations) -> None:
        values, labels = _counted(batch, self.of, self.labels)
        present, index = torch.unique(labels, return_inverse=True)
        count = torch.bincount(index, minlength=len(present)).to(torch.float64)
        mean = values.new_zeros(len(present), values.shape[1]).index_add_(0, index, values)
        mean /= count[:, None]
        squares = mean[index].sub_(values).square_()
        scatter = torch.zeros_like(mean).index_add_(0, index, squares)
        self._allocate(batch.num_classes, mean)
        self._add(present, count, mean, scatter)

    def merge(self, other: Self) -> None:
        if other._count is not None and other._mean is not None and other._scatter is not None:
            self._allocate(len(other._count), other._mean)
            present = other._count.nonzero()[:, 0]
            self._add(present, other._count[present], other._mean[present], other._scatter[present])

    def _allocate(self, num_classes: int, like: Tensor) -> None:
        if self._count is None:
            self._count = like.new_zeros(num_classes)
            self._mean = like.new_zeros(num_classes, like.shape[1])
            self._scatter = torch.zeros_like(self._mean)

    def _add(self, present: Tensor, count: Tensor, mean: Tensor, scatter: Tensor) -> None:
        assert self._count is not None and self._mean is not None and self._scatter is not None
        old = self._count[present]
        total = old + count
        delta = mean - self._mean[present]
        self._scatter[present] += scatter + (old * count / total)[:, None] * delta.square()
        self._mean[present] += (count / total)[:, None] * delta
        self._count[present] = total

    def finalize(self) -> Moments:
        count, mean, scatter = required(self._count), self._mean, self._scatter
        assert mean is not None and scatter is not None
        empty = (count == 0).nonzero()[:, 0].tolist()
        if empty and not self.allow_empty:
            what, remedy = (
                (
                    "was never predicted for a training image",
                    "add images the classifier assigns to it",
                )
                if self.labels == "predicted"
                else ("has no training image", "add some, or learn with labels='predicted'")
            )
            more = f" (nor {len(empty) - 1} other classes)" if len(empty) > 1 else ""
            raise NotEnoughImages(f"Class {empty[0]}{more} {what}: {remedy}.")
        return Moments(count, mean, scatter / count.clamp(min=1)[:, None])


@dataclass(frozen=True, eq=False)
class Means:
    """By class: number ``[C]`` and mean ``[C, K]``, zeros of a class without any image."""

    count: Tensor
    mean: Tensor


@dataclass
class ClassMeans(Statistic[Means]):
    """Mean of every class, in half the time of ``ClassMoments``.

    Args:
        of: the quantity.
        labels: count an image for its true or for its predicted class, or only if both agree.
    """

    of: Quantity
    labels: Counting = "true"
    _count: Tensor | None = accumulator()
    _sum: Tensor | None = accumulator()

    @property
    def needs_labels(self) -> bool:
        return self.labels != "predicted"

    def update(self, batch: Activations) -> None:
        values, labels = _counted(batch, self.of, self.labels)
        if self._count is None or self._sum is None:
            self._count = values.new_zeros(batch.num_classes)
            self._sum = values.new_zeros(batch.num_classes, values.shape[1])
        self._count += torch.bincount(labels, minlength=batch.num_classes)
        self._sum.index_add_(0, labels, values)

    def merge(self, other: Self) -> None:
        if other._count is not None and other._sum is not None:
            self._count = other._count + (0 if self._count is None else self._count)
            self._sum = other._sum + (0 if self._sum is None else self._sum)

    def finalize(self) -> Means:
        count = required(self._count)
        return Means(count, required(self._sum) / count.clamp(min=1)[:, None])


def _counted(batch: Activations, of: Quantity, counting: Counting) -> tuple[Tensor, Tensor]:
    """The values of the images that count, and the class each counts for."""
    values = batch.quantity(of)
    labels = batch.predictions if counting == "predicted" else batch.labels
    assert labels is not None, "fitting checks that labels are there"
    if counting == "correct":
        right = labels == batch.predictions
        if not right.all():
            return values[right], labels[right]
    return values, labels


@dataclass
class LogSumExp(Statistic[Tensor]):
    """``log sum exp`` of a quantity over all images, ``[K]``, without ever leaving the log domain.

    Minus infinity adds nothing, and is the result where nothing was added.
    """

    of: Quantity
    _total: Tensor | None = accumulator()

    def update(self, batch: Activations) -> None:
        self._add(batch.quantity(self.of).logsumexp(dim=0))

    def merge(self, other: Self) -> None:
        if other._total is not None:
            self._add(other._total)

    def _add(self, total: Tensor) -> None:
        self._total = total if self._total is None else torch.logaddexp(self._total, total)

    def finalize(self) -> Tensor:
        return required(self._total)
