"""Mergeable one-pass statistics: what detectors ask for instead of holding the data.

Each is a request (its public fields, by which equal ones are gathered once) and an accumulator in
float64. ``update`` takes a batch, ``merge`` another accumulator of the same request, ``finalize``
gives the result; none of them keeps the batches, and no result depends on their order or size
beyond rounding.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Generic, Self, TypeVar

import numpy as np
import torch
from torch import Tensor

from neroli.activations import Activations, Quantity
from neroli.errors import InvalidInput, NotEnoughImages

Result = TypeVar("Result")


def accumulator() -> Any:
    """A dataclass field that is gathered, not part of the request."""
    return field(default=None, init=False, repr=False, compare=False)


class Statistic(ABC, Generic[Result]):
    """A request for something about all training activations, and its accumulator."""

    @property
    def needs_labels(self) -> bool:
        """Whether it can only be gathered from images whose true class is known."""
        return False

    @abstractmethod
    def update(self, batch: Activations) -> None:
        """Take in a batch."""

    @abstractmethod
    def merge(self, other: Self) -> None:
        """Take in what another accumulator of the same request has gathered."""

    @abstractmethod
    def finalize(self) -> Result:
        """The result over everything taken in.

        Raises:
            NotEnoughImages: if there was too little of it.
        """


@dataclass
class Count(Statistic[int]):
    """How many images there are."""

    _count: int = field(default=0, init=False, repr=False, compare=False)

    def update(self, batch: Activations) -> None:
        self._count += len(batch)

    def merge(self, other: Self) -> None:
        self._count += other._count

    def finalize(self) -> int:
        return self._count


@dataclass
class Mean(Statistic[Tensor]):
    """The mean over images: a scalar or ``[K]``."""

    of: Quantity
    _count: int = field(default=0, init=False, repr=False, compare=False)
    _sum: Tensor | None = accumulator()

    def update(self, batch: Activations) -> None:
        self._add(len(batch), batch.quantity(self.of).sum(dim=0))

    def merge(self, other: Self) -> None:
        if other._sum is not None:
            self._add(other._count, other._sum)

    def _add(self, count: int, total: Tensor) -> None:
        self._count += count
        self._sum = total if self._sum is None else self._sum + total

    def finalize(self) -> Tensor:
        return required(self._sum if self._count else None) / self._count


@dataclass
class SampledMean(Mean):
    """The mean over a share of the images, for quantities that cost much.

    Args:
        of: the quantity.
        share: of the images, in 0..1, as ``sampled`` chooses them.
    """

    share: float = 1.0

    def update(self, batch: Activations) -> None:
        super().update(sampled(batch, self.share))


@dataclass(frozen=True)
class Range:
    """The exact smallest and largest value of a quantity."""

    low: float
    high: float


@dataclass
class Extrema(Statistic[Range]):
    """The exact minimum and maximum over all images and all their values."""

    of: Quantity
    _range: Range | None = accumulator()

    def update(self, batch: Activations) -> None:
        low, high = batch.as_given(self.of).aminmax()
        self._add(Range(float(low), float(high)))

    def merge(self, other: Self) -> None:
        if other._range is not None:
            self._add(other._range)

    def _add(self, new: Range) -> None:
        old = self._range or new
        self._range = Range(min(old.low, new.low), max(old.high, new.high))

    def finalize(self) -> Range:
        return required(self._range)


@dataclass
class Quantiles(Statistic[Tensor]):
    """Quantiles over all images and all their values, ``[len(levels)]``.

    A histogram of ``bins`` equal bins between the exact extremes found in an earlier pass, linear
    inside a bin: the error is at most one bin width, and the result does not depend on order.

    Args:
        of: the quantity.
        range: its exact extremes, from ``Extrema``.
        levels: quantile levels in 0..1.
        bins: number of bins.
    """

    of: Quantity
    range: Range
    levels: tuple[float, ...]
    bins: int = 2**18
    _counts: Tensor | None = accumulator()

    def update(self, batch: Activations) -> None:
        values = batch.quantity(self.of).flatten()
        width = (self.range.high - self.range.low) / self.bins
        position = (values - self.range.low).div_(width) if width else torch.zeros_like(values)
        index = position.to(torch.int64).clamp_(0, self.bins - 1)
        self._add(torch.bincount(index, minlength=self.bins))

    def merge(self, other: Self) -> None:
        if other._counts is not None:
            self._add(other._counts)

    def _add(self, counts: Tensor) -> None:
        self._counts = counts if self._counts is None else self._counts + counts

    def finalize(self) -> Tensor:
        counts = required(self._counts).to(torch.float64)
        cumulative = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        edges = torch.linspace(
            self.range.low,
            self.range.high,
            self.bins + 1,
            dtype=torch.float64,
            device=counts.device,
        )
        wanted = torch.tensor(self.levels, dtype=torch.float64, device=counts.device)
        wanted = wanted * cumulative[-1]
        upper = torch.searchsorted(cumulative, wanted).clamp(1, self.bins)
        inside = (wanted - cumulative[upper - 1]) / counts[upper - 1].clamp(min=1)
        return edges[upper - 1] + inside * (edges[upper] - edges[upper - 1])


@dataclass(frozen=True, eq=False)
class Confusion:
    """How many images ``[K]`` of each true class ``[K]`` were predicted as which class ``[K]``.

    Only pairs that occur are listed, so that 20,000 classes need no matrix of 400 million cells.
    """

    label: Tensor
    predicted: Tensor
    count: Tensor


@dataclass
class ConfusionCounts(Statistic[Confusion]):
    """How often each pair of true and predicted class occurs."""

    _pairs: Tensor | None = accumulator()
    _counts: Tensor | None = accumulator()

    @property
    def needs_labels(self) -> bool:
        return True

    def update(self, batch: Activations) -> None:
        assert batch.labels is not None, "fitting checks that labels are there"
        pairs = torch.stack([batch.labels, batch.predictions])
        self._add(pairs, torch.ones_like(batch.labels))

    def merge(self, other: Self) -> None:
        if other._pairs is not None and other._counts is not None:
            self._add(other._pairs, other._counts)

    def _add(self, pairs: Tensor, counts: Tensor) -> None:
        if self._pairs is not None and self._counts is not None:
            pairs = torch.cat([self._pairs, pairs], dim=1)
            counts = torch.cat([self._counts, counts])
        self._pairs, index = torch.unique(pairs, dim=1, return_inverse=True)
        self._counts = counts.new_zeros(self._pairs.shape[1]).index_add_(0, index, counts)

    def finalize(self) -> Confusion:
        label, predicted = required(self._pairs)
        return Confusion(label, predicted, required(self._counts))


@dataclass
class Reservoir(Statistic[Tensor]):
    """A random sample of rows, ``[min(size, N), K]``, that does not depend on order or sharding.

    It keeps the rows with the smallest hash of their id, keyed by the seed; where images have no
    ids, of the row itself.
    """

    of: Quantity
    size: int
    seed: int = 0
    _keys: list[np.ndarray[Any, Any]] = field(
        default_factory=list, init=False, repr=False, compare=False
    )
    _rows: list[Tensor] = field(default_factory=list, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.size < 1:
            raise InvalidInput(f"A reservoir must keep at least one row, got size={self.size}.")

    def update(self, batch: Activations) -> None:
        self._add(keyed_hashes(batch, self.of, self.seed), batch.as_given(self.of))

    def merge(self, other: Self) -> None:
        for keys, rows in zip(other._keys, other._rows, strict=True):
            self._add(keys, rows)

    def _add(self, keys: np.ndarray[Any, Any], rows: Tensor) -> None:
        if sum(map(len, self._keys)) < self.size:
            self._keys.append(keys)
            self._rows.append(rows)
            if sum(map(len, self._keys)) >= self.size:
                self._keep_smallest()
            return
        # Full: new rows take the places of old ones, so that a batch does not copy all rows.
        together = np.concatenate([self._keys[0], keys])
        kept = np.zeros(len(together), dtype=bool)
        kept[np.argsort(together, kind="stable")[: self.size]] = True
        leaving, coming = np.flatnonzero(~kept[: self.size]), np.flatnonzero(kept[self.size :])
        if len(coming):
            self._keys[0][leaving] = keys[coming]
            device = rows.device
            self._rows[0][torch.from_numpy(leaving).to(device)] = rows[
                torch.from_numpy(coming).to(device)
            ]

    def _keep_smallest(self) -> None:
        keys, rows = np.concatenate(self._keys), torch.cat(self._rows)
        kept = np.argsort(keys, kind="stable")[: self.size]
        self._keys, self._rows = [keys[kept]], [rows[torch.from_numpy(kept).to(rows.device)]]

    def finalize(self) -> Tensor:
        required(self._rows or None)
        self._keep_smallest()
        return self._rows[0].to(torch.float64)


def keyed_hashes(batch: Activations, of: Quantity, seed: int) -> np.ndarray[Any, Any]:
    """A hash of every image's id, of its quantity where it has none, ``[N]`` unsigned."""
    names: Iterable[Any] = (
        np.ascontiguousarray(batch.quantity(of).cpu().numpy())
        if batch.ids is None
        else (i.encode(errors="surrogateescape") for i in batch.ids)
    )
    key = str(seed).encode()
    digests = b"".join(hashlib.blake2b(n, digest_size=8, key=key).digest() for n in names)
    return np.frombuffer(digests, dtype=">u8")


def sampled(batch: Activations, share: float, seed: int = 0) -> Activations:
    """The images of a batch that are among a share of all, whatever their order and batches.

    A hash decides, as of ``Reservoir``. A batch may have none of them.
    """
    if share >= 1:
        return batch
    hashes = keyed_hashes(batch, "features", seed).astype(np.float64)
    return batch.select(torch.from_numpy(hashes < share * 2.0**64))


T = TypeVar("T")


def required(value: T | None) -> T:
    """What was gathered.

    Raises:
        NotEnoughImages: if nothing was.
    """
    if value is None:
        raise NotEnoughImages("There are no training images: give at least one readable image.")
    return value
