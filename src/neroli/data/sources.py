"""Where images come from: folders, lists of files, data loaders and arrays, as batches of tensors.

A batch carries what the network takes, and for every image an id, a hash of its content, and its
label where it is known. An image that cannot be read is recorded with its reason and left out.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Iterator, Sequence, Sized
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from neroli.data.images import EXTENSIONS, array_pictures, read_image, to_picture
from neroli.data.preprocessing import Preprocessing
from neroli.errors import InvalidInput, NotEnoughImages, UnreadableImage
from neroli.files import DIGEST_BYTES, digest, tensor_digest, text_digest


@dataclass(frozen=True)
class Failure:
    """An image that could not be read: its id, and why."""

    id: str
    reason: str


@dataclass(frozen=True, eq=False)
class ImageBatch:
    """Some images ready for the network.

    Attributes:
        images: ``[B, channels, height, width]``.
        labels: ``[B]`` int64, or None.
        ids: B strings, or None.
        digests: ``[B, 16]`` uint8 hashes of the images' contents.
        failures: the images of this batch that could not be read.
        end: position in the source of the first image after this batch.
    """

    images: Tensor
    labels: Tensor | None
    ids: tuple[str, ...] | None
    digests: Tensor
    failures: tuple[Failure, ...]
    end: int


class ImageSource(Protocol):
    """Images in a fixed order, as many times as asked."""

    @property
    def fingerprint(self) -> str | None:
        """A hash that changes when an image, its label or the order does; None if unknown."""

    @property
    def size(self) -> int | None:
        """How many images there are, readable or not; None if unknown."""

    def batches(
        self, preprocessing: Preprocessing | None, batch_size: int, start: int = 0
    ) -> Iterator[ImageBatch]:
        """The images from position ``start`` on."""


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
            raise InvalidInput(_NO_PREPROCESSING)
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
            digests=_stacked([content for _, content, _ in good]),
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
        files = sorted(
            (path.relative_to(root) for path in root.rglob("*") if is_image_file(path)),
            key=Path.as_posix,
        )
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


class ImageLoader:
    """The batches of a data loader, or of any iterable: ``x``, ``(x, y)`` or ``(x, y, id)``.

    ``x`` is a float tensor already preprocessed, or images as ``as_images`` takes them.
    """

    def __init__(self, loader: Iterable[Any]) -> None:
        if iter(loader) is loader:
            raise InvalidInput(
                "Images are read more than once, so give a list or a DataLoader rather than "
                f"a {type(loader).__name__} that runs dry."
            )
        self.loader = loader

    @property
    def size(self) -> int | None:
        dataset = getattr(self.loader, "dataset", None)
        return len(dataset) if isinstance(dataset, Sized) else None

    @property
    def fingerprint(self) -> None:
        return None

    def batches(
        self, preprocessing: Preprocessing | None, batch_size: int, start: int = 0
    ) -> Iterator[ImageBatch]:
        end = 0
        for item in self.loader:
            images, labels, ids = _parts(item)
            tensor = as_images(images, preprocessing)
            end += len(tensor)
            if end <= start:
                continue
            digests = _stacked([tensor_digest(image) for image in tensor])
            yield ImageBatch(tensor, labels, ids, digests, (), end)


def as_images(images: Any, preprocessing: Preprocessing | None) -> Tensor:
    """The network's input ``[N, channels, height, width]`` of images in any form.

    Args:
        images: a float tensor is taken as already preprocessed, ``[N, ...]``; a uint8 array
            ``[N, H, W, 1 or 3]``, ``[N, H, W]`` or one image of these, a uint8 tensor (channels
            first or last), a Pillow image, a path, or a list of single images of any of these
            kinds goes through ``preprocessing``.
        preprocessing: how; None if the images must be preprocessed already.

    Raises:
        InvalidInput: if they are none of these, hold NaN or infinity, differ in size, or need
            preprocessing and there is none. UnreadableImage is one of these.
    """
    if isinstance(images, Tensor) and images.is_floating_point():
        if images.ndim < 2 or 0 in images.shape:
            raise InvalidInput(f"Images must be a tensor [N, ...], got shape {list(images.shape)}.")
        bad = (~torch.isfinite(images.flatten(1)).all(dim=1)).nonzero()
        if len(bad):
            raise InvalidInput(f"Image {int(bad[0])} of the batch holds NaN or infinity.")
        return images
    if isinstance(images, Sequence) and not isinstance(images, str):
        if not images:
            raise NotEnoughImages("The list of images is empty: give at least one.")
        if all(isinstance(image, Tensor) and image.is_floating_point() for image in images):
            return as_images(_same_size(images), preprocessing)
        batches = [as_images(image, preprocessing) for image in images]
        if any(len(batch) != 1 for batch in batches):
            raise InvalidInput("A list of images must hold single images, not batches of them.")
        return _same_size([batch[0] for batch in batches])
    if preprocessing is None:
        raise InvalidInput(_NO_PREPROCESSING)
    if isinstance(images, str | Path):
        try:
            return preprocessing(read_image(Path(images))[1])[None]
        except UnreadableImage as error:
            raise UnreadableImage(f"{str(images)!r} {error}.") from None
    if isinstance(images, Tensor):
        channels_first = images.ndim in (3, 4) and images.shape[-1] not in (1, 3)
        if channels_first and images.shape[-3] in (1, 3):
            images = images.movedim(-3, -1)
        images = images.cpu().numpy()
    try:
        if isinstance(images, Image.Image):
            return preprocessing(to_picture(images))[None]
        if isinstance(images, np.ndarray):
            pixels = [preprocessing.pixels(picture) for picture in array_pictures(images)]
            return preprocessing.normalised(_same_size(pixels))
    except UnreadableImage as error:
        raise UnreadableImage(f"The image {error}.") from None
    raise InvalidInput(
        f"Cannot take a {type(images).__name__} as images: give a float tensor, a uint8 array, "
        "Pillow images or paths."
    )


def is_image_file(path: Path) -> bool:
    """Whether a file's name ends as image files' names do, and it is not hidden."""
    return path.suffix.lower() in EXTENSIONS and not path.name.startswith(".") and path.is_file()


_NO_PREPROCESSING = (
    "Images that are not float tensors need preprocessing and this classifier has none: give "
    "Classifier(model, preprocessing=Preprocessing(mean=..., std=..., resize=...))."
)


def _same_size(images: Sequence[Tensor]) -> Tensor:
    shapes = {tuple(image.shape) for image in images}
    if len(shapes) > 1:
        raise InvalidInput(
            f"Images in one batch differ in size after preprocessing: {sorted(shapes)[:2]}; "
            "give a preprocessing that resizes them."
        )
    return torch.stack(list(images))


def _parts(item: Any) -> tuple[Any, Tensor | None, tuple[str, ...] | None]:
    """Images, labels and ids of what a loader yields."""
    if not isinstance(item, tuple | list):
        return item, None, None
    if len(item) not in (1, 2, 3):
        raise InvalidInput(f"A loader must yield x, (x, y) or (x, y, id), got {len(item)} values.")
    images, labels, ids = (*item, None, None)[:3]
    if isinstance(ids, Tensor | np.ndarray):
        ids = ids.tolist()
    return (
        images,
        None if labels is None else torch.as_tensor(labels),
        None if ids is None else tuple(str(i) for i in ids),
    )


def _stacked(digests: list[bytes]) -> Tensor:
    joined = bytearray(b"".join(digests))
    flat = torch.frombuffer(joined, dtype=torch.uint8) if joined else torch.empty(0)
    return flat.to(torch.uint8).view(-1, DIGEST_BYTES)


def _stamp(path: Path) -> str:
    """Size and time of a file, to notice that it changed; empty if it cannot be read."""
    try:
        status = path.stat()
    except OSError:
        return ""
    return f"{status.st_size} {status.st_mtime_ns}"
