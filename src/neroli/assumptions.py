"""Whether training activations are as detectors assume, with figures where they are not."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal, Self

from neroli.activations import Activations
from neroli.statistics import Statistic

Assumption = Literal["non-negative features", "positive energy", "more images than features"]
"""What a method takes for granted; fitting warns, with figures, where it does not hold."""

_TOLERATED = 0.01
"""Share of negative features, or of images without positive energy, that is let pass."""


@dataclass(frozen=True)
class Facts:
    """What assumptions are checked against.

    Attributes:
        images: number of training images.
        features: D.
        negative: share of features below zero.
        without_energy: share of images whose logits have no positive log-sum-exp.
    """

    images: int
    features: int
    negative: float
    without_energy: float

    def doubts(self, detector: str, assumes: Iterable[Assumption]) -> list[str]:
        """A sentence for each assumption of a detector that does not hold."""
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
            if assumption == "more images than features" and self.images < self.features:
                found.append(
                    f"{detector} learns a covariance of {self.features} features from "
                    f"{self.images} images, fewer than there are features: give more images."
                )
        return found


@dataclass
class GatherFacts(Statistic[Facts]):
    """The facts, gathered in the passes that detectors ask for."""

    _images: int = field(default=0, init=False, repr=False, compare=False)
    _features: int = field(default=0, init=False, repr=False, compare=False)
    _negative: int = field(default=0, init=False, repr=False, compare=False)
    _without_energy: int = field(default=0, init=False, repr=False, compare=False)

    def update(self, batch: Activations) -> None:
        self._images += len(batch)
        self._features = batch.num_features
        if batch.features.amin() < 0:  # a look at the smallest spares most networks the count
            self._negative += int((batch.features < 0).sum())
        doubtful = batch.logits[batch.logits.amax(dim=1) <= 0]  # elsewhere the sum is positive too
        self._without_energy += int((doubtful.logsumexp(dim=1) <= 0).sum())

    def merge(self, other: Self) -> None:
        self._images += other._images
        self._features = max(self._features, other._features)
        self._negative += other._negative
        self._without_energy += other._without_energy

    def finalize(self) -> Facts:
        numbers = max(1, self._images * self._features)
        return Facts(
            self._images,
            self._features,
            self._negative / numbers,
            self._without_energy / max(1, self._images),
        )
