"""Blocks: consecutive parts of a source, each worked on by itself and joined in order."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from neroli.data.opening import open_images
from neroli.data.pictures import Pictures
from neroli.data.sources import ImageSource
from neroli.data.tables import Columns
from neroli.errors import ArtefactError, InvalidInput
from neroli.files import atomic_path, is_free, locked, remove_own, text_digest

BLOCK_SIZE = 1024
"""Images in a block: as many as in a shard of an activation store."""


@dataclass(frozen=True)
class Blocks:
    """How a source is cut.

    Args:
        images: how many there are.
        size: of every block but the last.

    Raises:
        InvalidInput: if ``size`` is below 1.
    """

    images: int
    size: int = BLOCK_SIZE

    def __post_init__(self) -> None:
        if self.size < 1:
            raise InvalidInput(f"A block must have 1 image or more, got {self.size}.")

    def __len__(self) -> int:
        return -(-self.images // self.size)

    def __getitem__(self, number: int) -> range:
        """The positions of a block's images in the source."""
        if not 0 <= number < len(self):
            raise IndexError(number)
        return range(number * self.size, min((number + 1) * self.size, self.images))


class BlockFolder:
    """The folder in which finished blocks lie until they are joined; a context manager.

    While it is open nobody else works on it. Blocks of another key, left by an earlier run, go; if
    there are none in the end, so does the folder.

    Args:
        path: the folder.
        key: what the blocks are of, and how they are cut.

    Raises:
        ArtefactError: if the folder cannot be written to, holds other files, or is in use.
    """

    def __init__(self, path: Path, key: str) -> None:
        self.path = path
        if not is_free(path, "key", ""):
            raise ArtefactError(
                f"{str(path)!r}, where finished blocks are kept, holds other files: move them away."
            )
        self._lock = ExitStack()
        self._lock.enter_context(locked(path, "blocks"))
        key_file = path / "key"
        if not key_file.exists() or key_file.read_bytes() != key.encode():
            key_file.unlink(missing_ok=True)
            for old in path.glob("[0-9]*"):
                shutil.rmtree(old) if old.is_dir() else old.unlink()
            with atomic_path(key_file) as temporary:
                temporary.write_text(key)
        for tries in path.glob("*.tries"):
            tries.unlink()

    def remove(self) -> None:
        """Delete the folder, when the blocks are joined."""
        remove_own(self.path)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._lock:
            if not any(self.path.glob("[0-9]*")):
                self.remove()


@dataclass(frozen=True)
class SharedImages:
    """Images at a path that every machine sees, from which each reads the blocks it is given.

    Attributes:
        path: as ``open_images`` takes it, absolute.
        columns: of a table.
        labelled: whether the labels are needed.
        classes: class indices of the labels that the data state, if they state words.
        listing: hash of the names and labels in order, by which a machine knows that it sees the
            same.
    """

    path: Path
    columns: Columns | None
    labelled: bool
    classes: Mapping[str, int] | None
    listing: str

    @classmethod
    def of(
        cls, opened: Pictures, pictures: Pictures, path: Path, columns: Columns | None = None
    ) -> SharedImages:
        """The images of a source that was opened here.

        Args:
            opened: the source as ``open_images`` gave it.
            pictures: the same with the labels that are needed, if any are.
            path, columns: by which it was opened.
        """
        classes = None
        if pictures.labels is not None and opened.stated_labels is not None:
            classes = dict(zip(opened.stated_labels, pictures.labels, strict=True))
        labelled = pictures.labels is not None
        return cls(path.resolve(), columns, labelled, classes, _listing(pictures))

    def open(self, machine: str) -> Pictures:
        """The same images, on another machine.

        Raises:
            InvalidInput: if the machine, which the message names, sees none or others there.
        """
        if not self.path.exists():
            raise InvalidInput(
                f"The machine {machine!r} does not see {str(self.path)!r}: the images must be on a "
                "file system that all machines share, at the same path."
            )
        pictures = divisible(open_images(self.path, columns=self.columns), self.path)
        if not self.labelled:
            pictures = pictures.unlabelled()
        elif self.classes is not None:
            pictures = pictures.labelled(self.classes)
        if _listing(pictures) != self.listing:
            raise InvalidInput(
                f"The machine {machine!r} sees other images in {str(self.path)!r} than the one "
                "that started the run: they were changed meanwhile, or it is another file system."
            )
        return pictures


def divisible(images: ImageSource, path: Path | str) -> Pictures:
    """Images that can be cut into parts.

    Raises:
        InvalidInput: if these cannot.
    """
    if not isinstance(images, Pictures):
        raise InvalidInput(
            f"{str(path)!r} is read as one stream and cannot be cut into parts: run it "
            "without --shard, with --engine local."
        )
    return images


def _listing(pictures: Pictures) -> str:
    labels: Sequence[object] = pictures.labels or [""] * len(pictures)
    rows = zip(pictures.names, labels, strict=True)
    return text_digest(f"{name} {label}" for name, label in rows)
