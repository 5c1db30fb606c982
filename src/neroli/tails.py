"""The largest values of every class, a mergeable statistic: what extreme-value fits learn from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from neroli.activations import Activations, Quantity
from neroli.errors import InvalidInput
from neroli.moments import Counting
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
