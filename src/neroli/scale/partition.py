"""Partition: the parts that a source of images is cut into, and the store of each."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Self

from neroli.classifier import Classifier
from neroli.data.pictures import Pictures
from neroli.errors import ArtefactError, InvalidInput
from neroli.extraction import extract_part, origin_of, store_key
from neroli.store import ActivationStore, Origin, finished
from neroli.store_joining import joined
from neroli.store_precision import StoreDtype
from neroli.taps import Requirements

PARTS = "parts"
"""The folder of a job's parts."""

_NAMED = 10
"""So many shards are named in a message."""


@dataclass(frozen=True)
class Shard:
    """One of ``of`` parts, ``number`` counted from 1.

    Raises:
        InvalidInput: if there is no such part.
    """

    number: int
    of: int

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.of:
            raise InvalidInput(
                f"There is no shard {self.number} of {self.of}: they are counted from 1 to the "
                "number of shards."
            )

    @classmethod
    def parse(cls, text: str) -> Self:
        """The shard written ``i/n``.

        Raises:
            InvalidInput: if it is not written so, or there is none.
        """
        number, _, of = text.partition("/")
        if not all(part.isascii() and part.isdigit() and len(part) < 10 for part in (number, of)):
            raise InvalidInput(f"--shard takes i/n, such as 3/8 for the third of 8, got {text!r}.")
        return cls(int(number), int(of))

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"

    def positions(self, count: int) -> range:
        """Its positions among so many, next to those of the shards before and behind."""
        return range((self.number - 1) * count // self.of, self.number * count // self.of)


def shards(of: int) -> list[Shard]:
    """All of them, in order."""
    return [Shard(number, of) for number in range(1, of + 1)]


def named(missing: Iterable[Shard]) -> str:
    """Some shards in a message: ``Shards 3 and 7 of 8``; many are not all named."""
    found = list(missing)
    numbers = [str(shard.number) for shard in found[:_NAMED]]
    if len(found) > _NAMED:
        numbers.append(f"{len(found) - _NAMED} more")
    text = " and ".join(filter(None, [", ".join(numbers[:-1]), numbers[-1]]))
    return f"{'Shard' if len(found) == 1 else 'Shards'} {text} of {found[0].of}"


@dataclass(frozen=True, eq=False)
class Partition:
    """The parts of a source, each extracted into a store of its own.

    Args:
        classifier: whose head, and map before pooling if required, were found on the whole source.
        pictures: all images, with their labels if these are wanted.
        requires: what to keep beside features and logits.
        folder: of the job.
        kind: what they are called, "training" or "calibration".
        of: how many parts; one without any position has no store.
        dtype: of the stores.
    """

    classifier: Classifier
    pictures: Pictures
    requires: Requirements
    folder: Path
    kind: str
    of: int
    dtype: StoreDtype | None = None

    @cached_property
    def shards(self) -> list[Shard]:
        """Those that have images."""
        return [shard for shard in shards(self.of) if shard.positions(len(self.pictures))]

    def path(self, shard: Shard) -> Path:
        """Where the store of a part lies."""
        return part_path(self.folder, self.kind, shard)

    def extract(self, shard: Shard, batch_size: int) -> ActivationStore | None:
        """The store of a part, extracted unless it is there; None if the part has no position.

        Raises:
            InvalidInput, ArtefactError: as ``neroli.extraction.extract``.
        """
        if shard not in self.shards:
            return None
        return extract_part(
            self.classifier,
            self._part(shard),
            self.path(shard),
            batch_size=batch_size,
            requires=self.requires,
            dtype=self.dtype,
        )

    def joined(self, path: Path) -> ActivationStore:
        """One store of all parts, the same as of the whole source.

        Raises:
            ArtefactError: as ``neroli.store_joining.joined``.
        """
        return joined([self.path(shard) for shard in self.shards], path, self._key(self.pictures))

    def missing(self, joined: Path) -> list[Shard]:
        """The shards whose part is not there, or is of other images; none once they are joined."""
        if finished(joined, self._key(self.pictures)) is not None:
            return []
        return [shard for shard in self.shards if not self.has(shard)]

    def has(self, shard: Shard) -> bool:
        """Whether the store of a part is there, of these images and this model."""
        return finished(self.path(shard), self._key(self._part(shard))) is not None

    def _part(self, shard: Shard) -> Pictures:
        return self.pictures.subset(shard.positions(len(self.pictures)))

    def _key(self, source: Pictures) -> str:
        return store_key(self._origin, self.classifier, source, self.requires.kept, self.dtype)

    @cached_property
    def _origin(self) -> Origin:
        return origin_of(self.classifier, self.pictures)


def check_none_missing(missing: Mapping[str, Collection[Shard]]) -> None:
    """Raise ArtefactError, naming the shards, if parts of any kind of images are missing."""
    kinds = " and ".join(kind for kind, found in missing.items() if found)
    if not kinds:
        return
    found = sorted({shard for each in missing.values() for shard in each}, key=lambda s: s.number)
    run = " and ".join(f"--shard {shard}" for shard in found[:_NAMED])
    raise ArtefactError(
        f"{named(found)} {'is' if len(found) == 1 else 'are'} missing, or the {kinds} images or "
        f"the model have changed since: run the same `neroli fit` with {run}."
    )


def part_path(folder: Path, kind: str, shard: Shard) -> Path:
    """Where in the folder of a job the store of a part lies."""
    return folder / PARTS / f"{kind}-{shard.number}-of-{shard.of}"
