"""What an actor does with a block: extracts it, or scores it. Runs on any machine, without Ray."""

from __future__ import annotations

import platform
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from neroli.allocation import keep_freed_memory
from neroli.artefact import read_manifest
from neroli.classifier import Classifier
from neroli.data.pictures import Pictures
from neroli.data.preprocessing import Preprocessing
from neroli.errors import ArtefactError, EngineError, InvalidInput, NeroliError
from neroli.execution import Execution
from neroli.extraction import extract_part
from neroli.files import locked, text_digest
from neroli.guard import Guard
from neroli.models import load_model, load_saved_model, to
from neroli.scale.blocks import Blocks, SharedImages
from neroli.scores import ScoreTable
from neroli.store import ActivationStore
from neroli.store_precision import StoreDtype
from neroli.taps import Requirements

_TRIES = 3
"""Of a block: one that kills every process that works on it would be tried for ever."""
_WAIT_FOR_LOCK = 60.0
"""Seconds: a process that was given up may still be about to finish the block."""


class Work(Protocol):
    """Something to do with every block of a source."""

    @property
    def blocks(self) -> Blocks:
        """How the source is cut."""

    @property
    def folder(self) -> Path:
        """Where finished blocks go."""

    def is_done(self, number: int) -> bool:
        """Whether this block is finished and whole."""

    def ready(self, machine: str) -> Callable[[int], None]:
        """Load the model and open the images; what is returned works on a block of a number.

        Raises:
            NeroliError: if they are not to be had on this machine, which the message names.
        """


@dataclass(frozen=True)
class Extraction:
    """Extraction of every block as an activation store of its own.

    Attributes:
        model, weights: as ``load_model`` takes them; paths are absolute.
        device: where the network runs.
        head, prepool, input_shape: as found on the whole source.
        preprocessing, execution: of the classifier.
        images: what to extract.
        blocks: how they are cut.
        folder: where the stores go.
        requires: what to keep beside features and logits.
        batch_size: images at a time.
        class_names: of the classifier.
        dtype: of the stores.
    """

    model: str
    weights: Path | None
    device: str
    head: str
    prepool: str | None
    input_shape: tuple[int, ...] | None
    preprocessing: Preprocessing | None
    execution: Execution
    images: SharedImages
    blocks: Blocks
    folder: Path
    requires: Requirements
    batch_size: int
    class_names: tuple[str, ...] | None = None
    dtype: StoreDtype | None = None

    def store(self, number: int) -> Path:
        """The folder of a block's store."""
        return self.folder / f"{number:06d}"

    def is_done(self, number: int) -> bool:
        try:
            ActivationStore(self.store(number))
        except ArtefactError:
            return False
        return True

    def ready(self, machine: str) -> Callable[[int], None]:
        check_shared(machine, self.weights)
        pictures = self.images.open(machine)
        classifier = Classifier(
            to(self.device, load_model(self.model, self.weights).module),
            self.head,
            prepool=self.prepool,
            preprocessing=self.preprocessing,
            execution=self.execution,
            class_names=self.class_names,
        )
        classifier.input_shape = self.input_shape

        def extract(number: int) -> None:
            path = self.store(number)
            wait_until_free(path)
            extract_part(
                classifier,
                pictures.subset(self.blocks[number]),
                path,
                batch_size=self.batch_size,
                requires=self.requires,
                dtype=self.dtype,
                progress=False,
            )

        return extract


@dataclass(frozen=True)
class Scoring:
    """Scoring of every block as a score table of its own.

    Attributes:
        guard: folder of the saved guard.
        model, weights: as ``load_saved_model`` takes them; paths are absolute.
        device, execution: where and how the network runs.
        input_shape: as found on the whole source, if the guard does not say.
        images, blocks, folder, batch_size: as of ``Extraction``.
    """

    guard: Path
    model: str | None
    weights: Path | None
    device: str
    execution: Execution
    input_shape: tuple[int, ...] | None
    images: SharedImages
    blocks: Blocks
    folder: Path
    batch_size: int

    def table(self, number: int) -> Path:
        """The table of a block."""
        return self.folder / f"{number:06d}.parquet"

    def is_done(self, number: int) -> bool:
        return self.table(number).exists()  # it takes its name when it is whole

    def ready(self, machine: str) -> Callable[[int], None]:
        check_shared(machine, self.guard, self.weights)
        pictures = self.images.open(machine)
        manifest = read_manifest(self.guard)
        network = load_saved_model(manifest.model_source, self.guard, self.model, self.weights)
        network = to(self.device, network)
        guard = Guard.load(self.guard, network, execution=self.execution)
        guard.classifier.input_shape = self.input_shape

        def score(number: int) -> None:
            path = self.table(number)
            wait_until_free(path.with_name(f"{path.name}.partial"))
            if self.is_done(number):
                return
            part: Pictures = pictures.subset(self.blocks[number])
            key = text_digest([manifest.model_dump_json(), part.fingerprint])
            table = ScoreTable(path, key, manifest)
            for batch in guard.stream(
                part, start=table.position, batch_size=self.batch_size, progress=False
            ):
                table.append(batch)
            table.finish()

        return score


@dataclass
class Actor:
    """Works on the blocks that it is given, with one model; what goes wrong it says in words.

    Attributes:
        work: what to do.
        search_path: where the process that started the run finds modules.
    """

    work: Work
    search_path: Sequence[str]

    def __call__(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """A row that says of a block what went wrong, if anything, and where processes died."""
        number, machine = int(row["block"]), platform.node()
        images = self.work.blocks[number]
        named = f"Block {number} (images {images.start} to {images.stop - 1})"
        died, wrong = "", ""
        try:
            check_shared(machine, self.work.folder)
            earlier = self._tried(number, machine)
            died = ", ".join(earlier)
            if len(earlier) >= _TRIES:
                raise EngineError(
                    f"{named} was tried {len(earlier)} times, and each time the process died, on "
                    f"{died}: perhaps for want of memory (lower --batch-size)."
                )
            self._run(number)
            self._tries(number).unlink(missing_ok=True)
        except NeroliError as error:
            wrong = str(error)
        except Exception as error:
            where = traceback.extract_tb(error.__traceback__)[-1]
            wrong = (
                f"{named} failed on {machine!r} with {type(error).__name__}: {error} "
                f"({where.filename}, line {where.lineno})."
            )
        return {"block": number, "error": wrong, "died": died}

    def _tried(self, number: int, machine: str) -> list[str]:
        """The machines on which this block was begun before, noting that it now is on this one."""
        with self._tries(number).open("a+") as file:
            file.write(f"{machine}\n")
            file.seek(0)
            return file.read().splitlines()[:-1]

    def _tries(self, number: int) -> Path:
        return self.work.folder / f"{number:06d}.tries"

    @cached_property
    def _run(self) -> Callable[[int], None]:
        sys.path += [entry for entry in self.search_path if entry not in sys.path]
        keep_freed_memory()
        return self.work.ready(platform.node())


def check_shared(machine: str, *paths: Path | None) -> None:
    """Raise InvalidInput if a machine does not see one of the paths."""
    for path in paths:
        if path is not None and not path.exists():
            raise InvalidInput(
                f"The machine {machine!r} does not see {str(path)!r}: it must be on a file system "
                "that all machines share, at the same path."
            )


def wait_until_free(folder: Path) -> None:
    """Wait until nobody writes to a folder, such as a process that was given up as lost.

    Raises:
        ArtefactError: if somebody does for long.
    """
    give_up = time.monotonic() + _WAIT_FOR_LOCK
    while True:
        try:
            with locked(folder, "block"):
                return
        except ArtefactError:
            if time.monotonic() > give_up:
                raise
        time.sleep(0.5)
