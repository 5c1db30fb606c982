"""Image files as a source: lists of them, and folders."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from neroli.data.images import EXTENSIONS, read_image
from neroli.data.preprocessing import Preprocessing
from neroli.data.sources import NO_PREPROCESSING, Content, Failure, ImageBatch, stacked_digests
from neroli.errors import InvalidInput, NotEnoughImages, UnreadableImage
from neroli.files import digest, text_digest


class ImageFiles:
    """Image files in the order given.

    Args:
        paths: the files.
        labels: true class of each, or None.
        ids: what each is called in results; the file's name when left out.
        workers: threads that read and decode ahead of the network.

    Raises:
        NotEnoughImages: if there is no file.
    """

    content: Content = "file"

    def __init__(
        self,
        paths: Sequence[Path | str],
        labels: Sequence[int] | None = None,
        ids: Sequence[str] | None = None,
        *,
        workers: int | None = None,
    ) -> None:
        self.paths = [Path(path) for path in paths]
        self.ids = [path.name for path in self.paths] if ids is None else list(ids)
        self.labels = None if labels is None else list(labels)
        self.workers = workers or min(4, os.cpu_count() or 1)
        for name, given in (("labels", self.labels), ("ids", self.ids)):
            if given is not None and len(given) != len(self.paths):
                raise InvalidInput(f"There are {len(given)} {name} for {len(self.paths)} files.")
        if not self.paths:
            raise NotEnoughImages("There is no image in the list: give at least one file.")

    @property
    def size(self) -> int:
        return len(self.paths)

    @property
    def fingerprint(self) -> str:
        labels = self.labels or itertools.repeat("")
        return text_digest(
            f"{name} {label} {_stamp(path)}"
            for name, label, path in zip(self.ids, labels, self.paths, strict=False)
        )

    def batches(
        self, preprocessing: Preprocessing | None, batch_size: int, start: int = 0
    ) -> Iterator[ImageBatch]:
        if preprocessing is None:
            raise InvalidInput(NO_PREPROCESSING)
        shape = self._expected_shape(preprocessing)

        def load(position: int) -> tuple[bytes, Tensor] | str:
            try:
                content, picture = read_image(self.paths[position])
                image = preprocessing.pixels(picture)
            except UnreadableImage as error:
                return str(error)
            if image.shape != shape:
                return (
                    f"is {image.shape[2]}x{image.shape[1]} pixels after preprocessing, the first "
                    f"readable image {shape[2]}x{shape[1]}; resize to one size"
                )
            return digest(content), image

        with ThreadPoolExecutor(self.workers) as pool:
            starts = range(start, len(self.paths), batch_size)
            ahead: list[Any] = []
            for begin in [*starts, None, None]:  # two batches are decoded ahead
                if begin is not None:
                    positions = range(begin, min(begin + batch_size, len(self.paths)))
                    ahead.append((positions, [pool.submit(load, p) for p in positions]))
                if len(ahead) > 2 or (begin is None and ahead):
                    positions, pending = ahead.pop(0)
                    loaded = [future.result() for future in pending]
                    yield self._collated(preprocessing, positions, loaded)

    def _expected_shape(self, preprocessing: Preprocessing) -> torch.Size:
        """The shape of the first readable image; all must have it to make a batch."""
        for path in self.paths:
            try:
                return preprocessing.pixels(read_image(path)[1]).shape
            except UnreadableImage:
                continue
        return torch.Size((len(preprocessing.mean), 0, 0))

    def _collated(
        self,
        preprocessing: Preprocessing,
        positions: range,
        loaded: list[tuple[bytes, Tensor] | str],
    ) -> ImageBatch:
        good = [
            (p, *item)
            for p, item in zip(positions, loaded, strict=True)
            if not isinstance(item, str)
        ]
        failures = tuple(
            Failure(self.ids[p], item)
            for p, item in zip(positions, loaded, strict=True)
            if isinstance(item, str)
        )
        return ImageBatch(
            images=preprocessing.normalised(torch.stack([image for _, _, image in good]))
            if good
            else torch.empty(0),
            labels=None
            if self.labels is None
            else torch.tensor([self.labels[p] for p, _, _ in good], dtype=torch.int64),
            ids=tuple(self.ids[p] for p, _, _ in good),
            digests=stacked_digests([content for _, content, _ in good]),
            failures=failures,
            end=positions.stop,
        )


class ImageFolder(ImageFiles):
    """All image files below a folder, in sorted order; ids are paths relative to it.

    Args:
        root: the folder.
        classes: class of every first-level subfolder by name; images outside these are an error.
            Without it images have no labels.
        workers: threads that read and decode ahead of the network.

    Raises:
        NotEnoughImages: if there is no image file below it, or none in one of ``classes``.
        InvalidInput: if it is not a folder, or an image lies in none of ``classes``.
    """

    def __init__(
        self, root: Path | str, classes: dict[str, int] | None = None, *, workers: int | None = None
    ) -> None:
        root = Path(root)
        if not root.is_dir():
            raise InvalidInput(f"{str(root)!r} is not a folder.")
        files = sorted((path.relative_to(root) for path in _image_files(root)), key=Path.as_posix)
        if not files:
            raise NotEnoughImages(
                f"There is no image file in {str(root)!r} or below it "
                f"(looked for {', '.join(sorted(EXTENSIONS))})."
            )
        labels = None
        if classes is not None:
            stray = next((f for f in files if f.parts[0] not in classes or len(f.parts) == 1), None)
            if stray is not None:
                raise InvalidInput(
                    f"{stray.as_posix()!r} in {str(root)!r} lies in no class folder: move it into "
                    "the subfolder of its class, or out of the training images."
                )
            labels = [classes[file.parts[0]] for file in files]
            empty = sorted(set(classes) - {file.parts[0] for file in files})
            if empty:
                raise NotEnoughImages(
                    f"The class folder {empty[0]!r} in {str(root)!r} holds no image file: "
                    "add images of that class."
                )
        super().__init__(
            [root / file for file in files],
            labels,
            [file.as_posix() for file in files],
            workers=workers,
        )


def _image_files(root: Path) -> Iterator[Path]:
    """Files below a folder whose names end as image files' do; linked folders once, none hidden.

    Raises:
        InvalidInput: if a folder below it cannot be read.
    """

    def refuse(error: OSError) -> None:
        raise InvalidInput(f"The folder {error.filename!r} cannot be read: {error.strerror}.")

    seen = set()
    for folder, subfolders, names in os.walk(root, onerror=refuse, followlinks=True):
        status = Path(folder).stat()
        if (status.st_dev, status.st_ino) in seen:  # a link back up
            subfolders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        for name in names:
            path = Path(folder, name)
            if path.suffix.lower() in EXTENSIONS and not name.startswith("."):
                yield path


def _stamp(path: Path) -> str:
    """Size and time of a file, to notice that it changed; empty if it cannot be read."""
    try:
        status = path.stat()
    except OSError:
        return ""
    return f"{status.st_size} {status.st_mtime_ns}"
