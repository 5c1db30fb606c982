"""Where images come from: sources that yield batches of tensors, and images in any other form.

A batch carries what the network takes, and for every image an id, a hash of its content, and its
label where it is known. An image that cannot be read is recorded with its reason and left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from neroli.data.images import array_pictures, loaded_picture, read_image
from neroli.data.preprocessing import Preprocessing
from neroli.errors import InvalidInput, NotEnoughImages, UnreadableImage
from neroli.files import DIGEST_BYTES, tensor_digest

Content = Literal["file", "tensor"]
"""What the hash of an image is of: the bytes of its file, or of the network's input."""


@dataclass(frozen=True)
class Failure:
    """An image that could not be read: its id, and why."""

    id: str
    reason: str


@dataclass(frozen=True, eq=False, repr=False)
class ImageBatch:
    """Some images ready for the network.

    Attributes:
        images: ``[B, channels, height, width]``.
        labels: ``[B]`` int64, or None.
        ids: B strings; positions where the images have no names.
        digests: ``[B, 16]`` uint8 hashes of the images' contents.
        failures: the images of this batch that could not be read.
        end: position in the source of the first image after this batch.
    """

    images: Tensor
    labels: Tensor | None
    ids: tuple[str, ...]
    digests: Tensor
    failures: tuple[Failure, ...]
    end: int


class ImageSource(Protocol):
    """Images in a fixed order, as many times as asked."""

    content: Content

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


class ImageLoader:
    """The batches of a data loader, or of any iterable: ``x``, ``(x, y)`` or ``(x, y, id)``.

    ``x`` is a float tensor already preprocessed, or images as ``as_images`` takes them.
    """

    content: Content = "tensor"

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
            names = ids or tuple(str(position) for position in range(end, end + len(tensor)))
            skipped = slice(max(0, start - end), None)
            end += len(tensor)
            if end <= start:
                continue
            tensor, names = tensor[skipped], names[skipped]
            labels = None if labels is None else labels[skipped]
            digests = stacked_digests([tensor_digest(image) for image in tensor])
            yield ImageBatch(tensor, labels, names, digests, (), end)


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
        raise InvalidInput(NO_PREPROCESSING)
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
            return preprocessing(loaded_picture(images))[None]
        if isinstance(images, np.ndarray):
            pixels = [preprocessing.pixels(picture) for picture in array_pictures(images)]
            return preprocessing.normalised(_same_size(pixels))
    except UnreadableImage as error:
        raise UnreadableImage(f"The image {error}.") from None
    raise InvalidInput(
        f"Cannot take a {type(images).__name__} as images: give a float tensor, a uint8 array, "
        "Pillow images or paths."
    )


NO_PREPROCESSING = (
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
    if all(isinstance(image, Image.Image | str | Path) for image in item):
        return item, None, None  # a list of images rather than images, labels and ids
    if len(item) not in (1, 2, 3):
        raise InvalidInput(f"A loader must yield x, (x, y) or (x, y, id), got {len(item)} values.")
    images, labels, ids = (*item, None, None)[:3]
    if labels is not None and not isinstance(labels, Tensor | np.ndarray | Sequence):
        raise InvalidInput(f"Labels must be a tensor [N], got {labels!r}.")
    if isinstance(ids, Tensor | np.ndarray):
        ids = ids.tolist()
    return (
        images,
        None if labels is None else torch.as_tensor(labels),
        None if ids is None else tuple(str(i) for i in ids),
    )


def stacked_digests(digests: list[bytes]) -> Tensor:
    """Hashes as a tensor, ``[N, 16]`` uint8."""
    joined = bytearray(b"".join(digests))
    flat = torch.frombuffer(joined, dtype=torch.uint8) if joined else torch.empty(0)
    return flat.to(torch.uint8).view(-1, DIGEST_BYTES)
