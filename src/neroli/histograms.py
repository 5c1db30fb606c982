"""Histograms: of every column over all images as a mergeable statistic, and of every row."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Self

import torch
from torch import Tensor

from neroli.activations import Activations, Quantity
from neroli.errors import InvalidInput
from neroli.statistics import Range, Statistic, accumulator, required


@dataclass
class BinCounts(Statistic[Tensor]):
    """How many images have each value of a quantity ``[N, K]`` in each bin, ``[K, bins]`` int64.

    Args:
        of: the quantity.
        edges: rising edges of the half-open bins, one more than bins; a value outside of them
            counts for none.
    """

    of: Quantity
    edges: tuple[float, ...]
    _counts: Tensor | None = accumulator()

    def __post_init__(self) -> None:
        if len(self.edges) < 2 or any(a >= b for a, b in pairwise(self.edges)):
            raise InvalidInput(f"Bin edges must be two or more that rise, got {self.edges}.")

    def update(self, batch: Activations) -> None:
        values = batch.quantity(self.of)
        bins = len(self.edges) - 1
        edges = torch.tensor(self.edges, dtype=values.dtype, device=values.device)
        index = torch.bucketize(values.contiguous(), edges, right=True) - 1
        cell = index + torch.arange(values.shape[1], device=values.device) * bins
        low, high = index.aminmax()
        if low < 0 or high >= bins:  # a choice among the cells costs more than a look
            cell = cell[(index >= 0) & (index < bins)]
        found = torch.bincount(cell.flatten(), minlength=values.shape[1] * bins)
        self._add(found.reshape(-1, bins))

    def merge(self, other: Self) -> None:
        if other._counts is not None:
            self._add(other._counts)

    def _add(self, counts: Tensor) -> None:
        self._counts = counts if self._counts is None else self._counts + counts

    def finalize(self) -> Tensor:
        return required(self._counts)


_MARGIN = 1e-8


def row_counts(values: Tensor, range: Range, bins: int) -> Tensor:
    """How many of each row's values ``[N, K]`` lie in each of equal bins, ``[N, bins]``.

    The half-open bins span the range and 1e-8 more above, so that its largest value lies in the
    last one; values outside of it by more than 1e-8 count for none.
    """
    low, high = range.low, range.high + _MARGIN
    steps = torch.arange(1, bins, dtype=torch.float64, device=values.device) / bins
    inner = (low + steps * (high - low)).to(values.dtype)
    index = torch.bucketize(values.contiguous(), inner, right=True)
    # Closed ends: in single precision, and far from zero, the margin is lost to rounding.
    inside = (values >= low - _MARGIN) & (values <= high)
    counts = values.new_zeros(len(values), bins)
    return counts.scatter_add_(1, index, inside.to(values.dtype))
