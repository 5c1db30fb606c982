"""Examples: which training images show what a neuron stands for, as mergeable statistics."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from neroli.activations import Activations, Quantity
from neroli.errors import InvalidInput
from neroli.statistics import Statistic, accumulator, required


@dataclass(frozen=True, eq=False)
class Examples:
    """Training images beside one image, by their ids, the hashes of their contents.

    Attributes:
        nearest: those with the most similar evidence among the ones kept, and their distance.
        of_neurons: of each top neuron those in which it adds most to their own class's logit.
        kept_of_neurons: of each, among the images kept, those in which its evidence is largest;
            their pictures can be shown.
        by_activation: of each those in which it is most active; empty unless asked for at fitting.
        thumbnails: pictures ``[h, w, 3]`` uint8 by id; empty unless asked for at fitting.
    """

    nearest: list[tuple[str, float]]
    of_neurons: dict[int, list[str]]
    kept_of_neurons: dict[int, list[str]]
    by_activation: dict[int, list[str]]
    thumbnails: dict[str, np.ndarray[Any, Any]]

    def to_dict(self) -> dict[str, Any]:
        """The ids for JSON, without the pictures."""
        return {
            "nearest": [{"id": name, "distance": distance} for name, distance in self.nearest],
            "of_neurons": {str(n): ids for n, ids in self.of_neurons.items()},
            "kept_of_neurons": {str(n): ids for n, ids in self.kept_of_neurons.items()},
            "by_activation": {str(n): ids for n, ids in self.by_activation.items()},
        }


@dataclass(frozen=True, eq=False)
class TopImages:
    """The images with the largest values of every column, largest first.

    Attributes:
        values: ``[size, K]``; zero where fewer images have a positive value.
        ids: their ids, ``[size, K]``; "" there.
    """

    values: Tensor
    ids: np.ndarray[Any, Any]


@dataclass
class LargestImages(Statistic[TopImages]):
    """Which images have the largest positive values of each column of a quantity ``[N, K]``.

    Values that are zero or negative do not count: of a neuron that is dead there are no examples.
    Of equal values those of the first ids go first, whatever the order and the batches.

    Args:
        of: the quantity.
        size: how many images of each column.
    """

    of: Quantity
    size: int
    _top: TopImages | None = accumulator()

    def __post_init__(self) -> None:
        if self.size < 1:
            raise InvalidInput(f"At least one image must be kept, got size={self.size}.")

    def update(self, batch: Activations) -> None:
        values = batch.quantity(self.of).clamp(min=0)
        names = np.asarray(batch.ids or [""] * len(batch), dtype=object)
        order = np.argsort(names)
        values, names = values[torch.from_numpy(order).to(values.device)], names[order]
        rows = _largest_rows(values, self.size)
        self._add(values.gather(0, rows), names[rows.cpu().numpy()])

    def merge(self, other: Self) -> None:
        if other._top is not None:
            self._add(other._top.values, other._top.ids)

    def _add(self, values: Tensor, ids: np.ndarray[Any, Any]) -> None:
        if self._top is not None:
            values = torch.cat([self._top.values, values])
            ids = np.concatenate([self._top.ids, ids])
        order = np.argsort(ids, axis=0)
        values = values.gather(0, torch.from_numpy(order).to(values.device))
        rows = _largest_rows(values, self.size)
        kept = np.take_along_axis(order, rows.cpu().numpy(), axis=0)
        self._top = TopImages(values.gather(0, rows), np.take_along_axis(ids, kept, axis=0))

    def finalize(self) -> TopImages:
        top = required(self._top)
        return TopImages(top.values, np.where(top.values.cpu().numpy() > 0, top.ids, ""))


def _largest_rows(values: Tensor, size: int) -> Tensor:
    """Of values ``[N, K]``, none negative, the rows of the largest, ``[at most size, K]``.

    Rows of equal values above zero come in their order; only the columns that have any are sorted
    as a whole, which takes many times as long.
    """
    top = values.topk(min(size + 1, len(values)), dim=0)  # one more: it may equal the last
    tied = ((top.values[1:] == top.values[:-1]) & (top.values[1:] > 0)).any(dim=0)
    rows = top.indices[:size]
    if tied.any():
        rows[:, tied] = values[:, tied].sort(dim=0, descending=True, stable=True).indices[:size]
    return rows
