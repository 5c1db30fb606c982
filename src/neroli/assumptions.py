"""Whether training activations are as detectors assume, with figures where they are not."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal, Self

import torch
from torch import Tensor

from neroli.activations import Activations
from neroli.moments import Counting
from neroli.statistics import Statistic

Assumption = Literal[
    "non-negative features",
    "positive energy",
    "positive logits",
    "more images than features",
    "images of every class",
    "images of every predicted class",
    "correct images of every class",
]
"""What a method takes for granted; fitting warns, with figures, where it does not hold."""

_TOLERATED = 0.01
"""Share of negative features, or of images without positive energy, that is let pass."""

FEW = 10
"""Fewer images of a class than this are said to be few: their mean is off by a third of their
standard deviation."""

_CLASSES: dict[Assumption, tuple[Counting, str]] = {
    "images of every class": ("true", "of"),
    "images of every predicted class": ("predicted", "predicted as"),
    "correct images of every class": ("correct", "classified correctly as"),
}
"""Which images of a class are meant, and how that is said."""


def of_classes(assumption: Assumption, labels: Counting) -> Assumption:
    """The assumption as a detector makes it that learns from other images of each class."""
    if assumption != "images of every class":
        return assumption
    return next(named for named, (counting, _) in _CLASSES.items() if counting == labels)


@dataclass(frozen=True)
class Facts:
    """What assumptions are checked against.

    Attributes:
        images: number of training images.
        features: D.
        negative: share of features below zero.
        without_energy: share of images whose logits have no positive log-sum-exp.
        without_logit: share of images whose logits are all negative.
        classes: number of images of every class, by true and predicted class and where both agree;
            the first and last only of labelled images.
    """

    images: int
    features: int
    negative: float
    without_energy: float
    without_logit: float
    classes: dict[Counting, tuple[int, ...]]

    def doubts(
        self, detector: str, assumes: Iterable[Assumption], shrunk: float | None = None
    ) -> list[str]:
        """A sentence for each assumption of a detector that does not hold.

        Args:
            detector: its name.
            assumes: the assumptions.
            shrunk: how much it has shrunk a covariance; None if it does not do that.
        """
        found = []
        for assumption in assumes:
            if assumption == "non-negative features" and self.negative > _TOLERATED:
                found.append(
                    f"{detector} is made for features behind a ReLU, and {self.negative:.0%} of "
                    "this network's are negative: expect less of it."
                )
            if assumption == "positive energy" and self.without_energy > _TOLERATED:
                found.append(
                    f"{detector} divides or weighs by the energy of the logits, which is not "
                    f"positive for {self.without_energy:.0%} of the training images: expect less "
                    "of it."
                )
            if assumption == "positive logits" and self.without_logit > _TOLERATED:
                found.append(
                    f"{detector} multiplies logits, whose order turns round where all are negative,"
                    f" as they are for {self.without_logit:.0%} of the training images: expect "
                    "less of it."
                )
            if assumption == "more images than features" and self.images < self.features:
                instead = "" if shrunk is None else f" (it is shrunk by {shrunk:.0%})"
                found.append(
                    f"{detector} learns a covariance of {self.features} features from "
                    f"{self.images} images, fewer than there are features{instead}: give more "
                    "images."
                )
            if assumption in _CLASSES:
                found += self._small_classes(detector, *_CLASSES[assumption])
        return found

    def _small_classes(self, detector: str, counting: Counting, are: str) -> list[str]:
        """A sentence if a class has no or few images."""
        sizes = self.classes.get(counting, ())
        small = sum(size < FEW for size in sizes)
        if not small:
            return []
        least = min(sizes)
        return [
            f"{detector} learns from the training images {are} each class, and {small} of "
            f"{len(sizes)} classes have fewer than {FEW} (class {sizes.index(least)} has "
            f"{least or 'none'}): give more of them, or expect less of it there."
        ]


@dataclass
class GatherFacts(Statistic[Facts]):
    """The facts, gathered in the passes that detectors ask for."""

    _images: int = field(default=0, init=False, repr=False, compare=False)
    _features: int = field(default=0, init=False, repr=False, compare=False)
    _negative: int = field(default=0, init=False, repr=False, compare=False)
    _without_energy: int = field(default=0, init=False, repr=False, compare=False)
    _without_logit: int = field(default=0, init=False, repr=False, compare=False)
    _classes: dict[Counting, Tensor] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def update(self, batch: Activations) -> None:
        self._images += len(batch)
        self._features = batch.num_features
        if batch.features.amin() < 0:  # a look at the smallest spares most networks the count
            self._negative += int((batch.features < 0).sum())
        largest = batch.logits.amax(dim=1)
        self._without_logit += int((largest < 0).sum())
        doubtful = batch.logits[largest <= 0]  # elsewhere the log-sum-exp is positive too
        self._without_energy += int((doubtful.logsumexp(dim=1) <= 0).sum())
        self._add("predicted", torch.bincount(batch.predictions, minlength=batch.num_classes))
        if batch.labels is not None:
            self._add("true", torch.bincount(batch.labels, minlength=batch.num_classes))
            correct = batch.labels[batch.labels == batch.predictions]
            self._add("correct", torch.bincount(correct, minlength=batch.num_classes))

    def merge(self, other: Self) -> None:
        self._images += other._images
        self._features = max(self._features, other._features)
        self._negative += other._negative
        self._without_energy += other._without_energy
        self._without_logit += other._without_logit
        for counting, counts in other._classes.items():
            self._add(counting, counts)

    def _add(self, counting: Counting, counts: Tensor) -> None:
        known = self._classes.get(counting)
        self._classes[counting] = counts if known is None else known + counts

    def finalize(self) -> Facts:
        images, numbers = max(1, self._images), max(1, self._images * self._features)
        return Facts(
            self._images,
            self._features,
            self._negative / numbers,
            self._without_energy / images,
            self._without_logit / images,
            {counting: tuple(counts.tolist()) for counting, counts in self._classes.items()},
        )
