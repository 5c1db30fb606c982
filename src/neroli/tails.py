"""The extremes of every class as mergeable statistics: largest values, and bounds of rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from neroli.activations import Activations, Quantity
from neroli.errors import InvalidInput, NotEnoughImages
from neroli.moments import Counting, Labelling
from neroli.statistics import Statistic, accumulator, required


@dataclass
class ClassLargest(Statistic[Tensor]):
    """The largest values of a quantity ``[N]`` in every class, ``[C, size]``, largest first.

    Args:
        of: the quantity, one number an image.
        size: how many values are kept of each class; one with fewer images is filled up with -inf.
        labels: count an image for its true or for its predicted class, or only if both agree.
    """

    of: Quantity
    size: int
    labels: Counting = "true"
    _largest: Tensor | None = accumulator()

    def __post_init__(self) -> None:
        if self.size < 1:
            raise InvalidInput(f"At least one value of a class must be kept, got size={self.size}.")

    @property
    def needs_labels(self) -> bool:
        return self.labels != "predicted"

    def update(self, batch: Activations) -> None:
        values = batch.quantity(self.of)
        classes = batch.predictions if self.labels == "predicted" else batch.labels
        assert classes is not None, "fitting checks that labels are there"
        if self.labels == "correct":
            right = classes == batch.predictions
            values, classes = values[right], classes[right]
        # Sorted by value and then, keeping that order, by class: the rank inside of a class is how
        # far an entry stands from where its class begins.
        values, order = values.sort(descending=True)
        classes, stable = classes[order].sort(stable=True)
        counts = torch.bincount(classes, minlength=batch.num_classes)
        rank = torch.arange(len(classes), device=classes.device)
        rank = rank - (counts.cumsum(0) - counts)[classes]
        kept = rank < self.size
        table = values.new_full((batch.num_classes, self.size), -torch.inf)
        table[classes[kept], rank[kept]] = values[stable][kept]
        self._add(table)

    def merge(self, other: Self) -> None:
        if other._largest is not None:
            self._add(other._largest)

    def _add(self, table: Tensor) -> None:
        if self._largest is not None:
            table = torch.cat([self._largest, table], dim=1).topk(self.size, dim=1).values
        self._largest = table

    def finalize(self) -> Tensor:
        return required(self._largest)


@dataclass(frozen=True, eq=False)
class Bounds:
    """The least and the largest values of every class, ``[C, K]`` each."""

    low: Tensor
    high: Tensor


@dataclass
class ClassBounds(Statistic[Bounds]):
    """The least and the largest values of a quantity ``[N, K]`` in every class.

    A class without any image has the bounds of all classes.

    Args:
        of: the quantity.
        labels: count an image for its true or for its predicted class.
        unless: a quantity ``[N]`` that is not zero for images that do not count at all.
    """

    of: Quantity
    labels: Labelling
    unless: Quantity
    _low: Tensor | None = accumulator()
    _high: Tensor | None = accumulator()

    @property
    def needs_labels(self) -> bool:
        return self.labels == "true"

    def update(self, batch: Activations) -> None:
        counted = batch.quantity(self.unless) == 0
        values = batch.quantity(self.of)[counted]
        classes = batch.predictions if self.labels == "predicted" else batch.labels
        assert classes is not None, "fitting checks that labels are there"
        index = classes[counted, None].expand_as(values)
        low = values.new_full((batch.num_classes, values.shape[1]), torch.inf)
        self._add(
            low.scatter_reduce(0, index, values, "amin"),
            (-low).scatter_reduce(0, index, values, "amax"),
        )

    def merge(self, other: Self) -> None:
        if other._low is not None and other._high is not None:
            self._add(other._low, other._high)

    def _add(self, low: Tensor, high: Tensor) -> None:
        if self._low is not None and self._high is not None:
            low, high = torch.minimum(self._low, low), torch.maximum(self._high, high)
        self._low, self._high = low, high

    def finalize(self) -> Bounds:
        low, high = required(self._low), required(self._high)
        if not torch.isfinite(low).any():
            raise NotEnoughImages("No training image counts for the bounds: give more images.")
        empty = torch.isinf(low)
        return Bounds(
            torch.where(empty, low.amin(dim=0), low), torch.where(empty, high.amax(dim=0), high)
        )
