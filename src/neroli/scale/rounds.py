"""Rounds: the passes of a fit, each gathered shard by shard into files that the next one begins at.

``FOLDER/pass-K/shard-I.safetensors`` holds what the statistics of pass K have gathered on shard I,
``merged.safetensors`` beside it that of all shards together. What a pass asks for is not kept:
detectors ask again when they are given the results of the passes before. Each file carries a
checksum of what it holds.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from copy import deepcopy
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import pydantic
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from neroli.accumulators import merge, packed, unpack
from neroli.errors import ArtefactError, NeroliWarning
from neroli.files import atomic_path, checksum, text_digest
from neroli.fitting import gather, take_in
from neroli.scale.job import Job
from neroli.scale.partition import Shard, part_path
from neroli.statistics import Statistic
from neroli.store import ActivationStore
from neroli.store_files import read_manifest

SCHEMA_VERSION = 1
PASS = "pass-"
_HEADER = "statistics"
_OTHER = {
    "schema_version": "another version of neroli",
    "job": "another fit or version of neroli",
    "number": "another pass",
    "images": "other images",
}


class PassGathered(Exception):  # no error: the other shards are to do the same
    """A shard has gathered a pass, and the next must wait for the other shards.

    Args:
        number: of the pass, from 1.
        missing: the shards that have not gathered it.
    """

    def __init__(self, number: int, missing: Sequence[Shard]) -> None:
        super().__init__(f"Pass {number} is gathered on one shard.")
        self.number, self.missing = number, list(missing)


class UnusableFile(ArtefactError):
    """A file of statistics is damaged, or of something else.

    Args:
        fault: what is wrong with which file.
        remedy: of one who gathers in rounds.
    """

    def __init__(self, fault: str, remedy: str) -> None:
        super().__init__(f"{fault}: {remedy}.")
        self.fault = fault


class _Header(pydantic.BaseModel):
    """What a file of statistics says of itself."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)

    format: Literal["neroli statistics"] = "neroli statistics"
    schema_version: int = SCHEMA_VERSION
    job: str
    number: int
    shard: str
    images: str


class Passes:
    """The passes of one fit that were gathered into files, as far as they were.

    Args:
        folder: of the job, in which the parts of the training images lie.
        job: what it is of.
    """

    def __init__(self, folder: Path, job: Job) -> None:
        self._folder, self._job, self._shards = folder, job.digest, job.training_shards()

    def missing(self, number: int) -> list[Shard]:
        """The shards that have not gathered a pass; none once their statistics are merged."""
        if self._merged(number).exists():
            return []
        return [shard for shard in self._shards if not self._of(number, shard).exists()]

    def write(self, number: int, shard: Shard, statistics: Sequence[Statistic[Any]]) -> None:
        """Put on disk what statistics have gathered on a shard, atomically.

        Raises:
            ArtefactError: if it cannot be written.
        """
        self._write(self._of(number, shard), self._header(number, shard), statistics)

    def results(self, number: int, statistics: Sequence[Statistic[Any]]) -> list[Any]:
        """The results of a pass that all shards have gathered.

        Args:
            number: of the pass.
            statistics: what it asks for, with nothing gathered yet.

        Raises:
            NotEnoughImages: if there was too little for one of them.
            ArtefactError: if a file is damaged, or of another job, pass or shard.
        """
        merged = self._merged(number)
        if merged.exists():
            unpack(self._read(merged, self._header(number)), statistics)
        else:
            for shard in self._shards:
                part = self._read(self._of(number, shard), self._header(number, shard))
                merge(part, statistics)
            self._write(merged, self._header(number), statistics)
        return [statistic.finalize() for statistic in statistics]

    def _of(self, number: int, shard: Shard) -> Path:
        return self._folder / f"{PASS}{number}" / f"shard-{shard.number}.safetensors"

    def _merged(self, number: int) -> Path:
        return self._folder / f"{PASS}{number}" / "merged.safetensors"

    def _header(self, number: int, shard: Shard | None = None) -> _Header:
        """Of the file of one shard, or of all."""
        of = self._shards if shard is None else [shard]
        return _Header(
            job=self._job,
            number=number,
            shard="all" if shard is None else str(shard),
            images=text_digest(self._keys[each] for each in of),
        )

    @cached_property
    def _keys(self) -> dict[Shard, str]:
        """The key of every part that is there."""
        found = {s: read_manifest(part_path(self._folder, "training", s)) for s in self._shards}
        return {shard: "" if part is None else part.key for shard, part in found.items()}

    def _write(self, path: Path, header: _Header, statistics: Sequence[Statistic[Any]]) -> None:
        tensors, said = packed(statistics), header.model_dump_json()
        with atomic_path(path) as temporary:
            save_file(tensors, temporary, {_HEADER: said, "checksum": checksum(said, tensors)})

    def _read(self, path: Path, expected: _Header) -> dict[str, Tensor]:
        try:
            with safe_open(path, "pt") as file:
                about = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            header = _Header.model_validate_json(about[_HEADER])
            if about["checksum"] != checksum(about[_HEADER], tensors):
                raise ValueError("bytes have changed since they were written")
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            raise UnusableFile(
                f"The statistics {str(path)!r} are damaged ({error})",
                "delete the file and run its round again",
            ) from None
        for name, value in expected:
            if getattr(header, name) != value:
                raise UnusableFile(
                    f"The statistics {str(path)!r} are of {_OTHER.get(name, 'another ' + name)}",
                    f"delete {str(path.parent)!r} and all later passes, and run the rounds again",
                )
        return tensors


class Round:
    """Gathers the next pass of a fit on one shard; the passes before are read from files.

    Args:
        passes: the fit's.
        folder: of the job, in which the parts of the training images lie.
        shard: on which to gather.
        only_read: gather nothing, so that what ``PassGathered`` names is the next pass to gather.
    """

    def __init__(
        self, passes: Passes, folder: Path, shard: Shard, *, only_read: bool = False
    ) -> None:
        self._passes, self._shard, self._number = passes, shard, 0
        self._only_read = only_read
        self._store = ActivationStore(part_path(folder, "training", shard))

    def gathered(self, statistics: Sequence[Statistic[Any]]) -> list[Any]:
        """The results of the next pass, if all shards have gathered it.

        Raises:
            PassGathered: if they have not, after this one has.
            NotEnoughImages, InvalidInput: as ``neroli.fitting.gather``.
            ArtefactError: as ``Passes.results``.
        """
        self._number += 1
        missing = self._passes.missing(self._number)
        if self._shard in missing and not self._only_read:
            take_in(statistics, self._store)
            self._passes.write(self._number, self._shard, statistics)
            raise PassGathered(self._number, self._passes.missing(self._number))
        if missing:
            raise PassGathered(self._number, missing)
        return self._passes.results(self._number, statistics)


class Remaining:
    """Gathers the passes that were not gathered in rounds on all images, in this process.

    From a pass on whose files cannot be used, which a NeroliWarning says, none are.

    Args:
        passes: the fit's.
        store: of all training images.
    """

    def __init__(self, passes: Passes, store: ActivationStore) -> None:
        self._passes, self._store, self._number = passes, store, 0
        self._usable = True

    def gathered(self, statistics: Sequence[Statistic[Any]]) -> list[Any]:
        """The results of the next pass.

        Raises:
            NotEnoughImages, InvalidInput: as ``neroli.fitting.gather``.
            ArtefactError: if what was gathered cannot be written.
        """
        self._number += 1
        if self._usable and not self._passes.missing(self._number):
            empty = deepcopy(statistics)
            try:
                return self._passes.results(self._number, statistics)
            except UnusableFile as error:
                self._usable, statistics = False, empty
                warnings.warn(
                    f"{error.fault}: pass {self._number} and those after it are gathered anew.",
                    NeroliWarning,
                    stacklevel=2,
                )
        return gather(statistics, self._store)
