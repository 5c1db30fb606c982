"""Job: what a fit in shards is of, so that each shard and the merge after them do the same fit."""

from __future__ import annotations

import contextlib
from collections.abc import Collection
from pathlib import Path
from typing import Literal, Self

import pydantic

from neroli import __version__
from neroli.errors import ArtefactError, InvalidInput
from neroli.files import LOCK, atomic_path, drop_temporaries, remove_own, text_digest
from neroli.models import anchored
from neroli.scale.partition import Shard, shards

SCHEMA_VERSION = 1
FILE = "job.json"
MERGED = "merged.json"
"""What the file is called when the guard is saved and the activations are being deleted."""


class InputOptions(pydantic.BaseModel):
    """The options that say which classifier and which images; see the help of ``neroli fit``."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)

    model: str
    weights: Path | None
    train: Path
    calibration: Path
    head: str | None
    class_map: Path | None
    resize: str | None
    crop: str | None
    mean: str | None
    std: str | None
    interpolation: str | None
    path_column: str | None
    label_column: str | None
    group_column: str | None
    every: int
    store: Path | None
    store_dtype: str | None
    allow_low_agreement: bool
    precision: str | None
    channels_last: bool | None
    compile: bool | None


class FitOptions(InputOptions):
    """The options of ``neroli fit`` that decide which guard is made; see its help.

    Where the network runs, and on how many images at a time, is no matter of the job: shards may
    differ in it.
    """

    out: Path
    detector: str
    setting: tuple[str, ...]
    false_alarm_rate: float
    guarantee: str
    confidence: float
    per_class: bool
    keep_examples: int

    def absolute(self) -> Self:
        """The same with absolute paths, good from any folder."""
        paths = {k: v.absolute() for k, v in self if isinstance(v, Path)}
        return self.model_copy(update={**paths, "model": anchored(self.model)})


class Job(pydantic.BaseModel):
    """What ``job.json`` says: a fit, and into how many shards it is cut."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)

    format: Literal["neroli fit"] = "neroli fit"
    schema_version: int = SCHEMA_VERSION
    shards: pydantic.PositiveInt
    training_images: pydantic.PositiveInt
    options: FitOptions

    @property
    def digest(self) -> str:
        """A hash by which statistics know the job they are of; of this version of neroli alone."""
        return text_digest([__version__, self.model_dump_json()])

    def training_shards(self) -> list[Shard]:
        """The shards that have training images."""
        return [s for s in shards(self.shards) if s.positions(self.training_images)]

    def begin(self, folder: Path) -> None:
        """Write it to a folder, unless it is there.

        Raises:
            InvalidInput: if the folder holds another job, naming the option that differs.
            ArtefactError: if it cannot be written, or what is there is damaged or newer.
        """
        if not (folder / FILE).exists():
            with atomic_path(folder / FILE) as path:
                path.write_text(self.model_dump_json(indent=2) + "\n", encoding="utf-8")
        there = Job.read(folder)  # which may be another process's by now
        if there.shards != self.shards:
            raise InvalidInput(
                f"The job in {str(folder)!r} was begun with {there.shards} shards, not "
                f"{self.shards}: go on with so many, or delete the folder or choose another."
            )
        if there.training_images != self.training_images:
            raise InvalidInput(
                f"The job in {str(folder)!r} was begun with {there.training_images} training "
                f"images, and there are {self.training_images} now: delete the folder or choose "
                "another."
            )
        theirs = dict(there.options)
        for name, value in self.options:
            if value != theirs[name]:
                option = "--set" if name == "setting" else f"--{name.replace('_', '-')}"
                raise InvalidInput(
                    f"The job in {str(folder)!r} was begun with {option} {_said(theirs[name])}, "
                    f"not {_said(value)}: give the same options, or delete the folder or choose "
                    "another."
                )

    @classmethod
    def read(cls, folder: Path) -> Job:
        """The job of a folder.

        Raises:
            ArtefactError: if there is none, it is damaged, or newer than this neroli reads.
        """
        path = folder / FILE
        try:
            text = path.read_text(encoding="utf-8")
        except (FileNotFoundError, NotADirectoryError):
            raise ArtefactError(
                f"There is no fit in shards in {str(folder)!r} (no {FILE}): begin one with "
                "`neroli fit ... --shard 1/n`, or it is merged already."
            ) from None
        except (OSError, ValueError) as error:
            raise ArtefactError(f"Cannot read {str(path)!r}: {error}.") from None
        try:
            version = _Version.model_validate_json(text).schema_version
            if version <= SCHEMA_VERSION:
                return cls.model_validate_json(text)
        except pydantic.ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"]) or "the file"
            raise ArtefactError(
                f"{str(path)!r} is not a valid job ({where}: {first['msg']}): delete the folder "
                "and begin again."
            ) from None
        raise ArtefactError(
            f"The job in {str(folder)!r} has schema {version}, newer than the {SCHEMA_VERSION} "
            "this neroli reads: upgrade neroli."
        )


def clear_merged(folder: Path, keep: Collection[Path] = ()) -> None:
    """Delete the activations of a fit whose guard is saved, and its folder if that is then empty.

    Args:
        folder: of the fit.
        keep: stores that stay, resolved.
    """
    for kind in ("training", "calibration"):
        path = folder / kind
        if path.resolve() not in keep:
            remove_own(path)
    drop_temporaries(folder / FILE)
    with contextlib.suppress(OSError):  # something may be held, or of the user's
        (folder / LOCK).unlink(missing_ok=True)
        (folder / MERGED).unlink(missing_ok=True)
        folder.rmdir()


class _Version(pydantic.BaseModel):
    schema_version: int


def _said(value: object) -> str:
    """The value of an option as a message gives it."""
    if value is None or value == ():
        return "left out"
    return " ".join(map(str, value)) if isinstance(value, tuple) else repr(str(value))
