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
from neroli.files import DIGEST_BYTES, digest, tensor_digest

IMAGE_BATCH = 64
"""Images that go through the network at a time."""

Content = Literal["file", "picture", "tensor"]
"""What the hash of an image is of: the bytes of its file, its pixels, or the network's input."""


@dataclass(frozen=True)
class Failure:
    """An image that could not be read: its name, and why."""

    name: str
    reason: str


@dataclass(frozen=True, eq=False, repr=False)
class ImageBatch:
    """Some images ready for the network.

    Attributes:
        images: ``[B, channels, height, width]``.
        labels: ``[B]`` int64, or None.
        names: B strings; positions where the images have no names.
        digests: ``[B, 16]`` uint8 hashes of the images' contents.
        groups: ``[B, 16]`` uint8 hashes of what they belong to, such as a patient, or None.
        failures: the images of this batch that could not be read.
        end: position in the source of the first image after this batch.
    """

    images: Tensor
    labels: Tensor | None
    names: tuple[str, ...]
    digests: Tensor
    groups: Tensor | None
    failures: tuple[Failure, ...]
    end: int

    @property
    def ids(self) -> tuple[str, ...]:
        """The hash of every image's content as text: its id in records, wherever it came from."""
        return tuple(bytes(row).hex() for row in self.digests.numpy())


class ImageSource(Protocol):
    """Images in a fixed order, as many times as asked."""

    @property
    def content(self) -> Content:
        """What the hashes of its images are of."""

    @property
    def fingerprint(self) -> str | None:
        """A hash that changes when an image, its label or the order does; None if unknown."""

    @property
    def size(self) -> int | None:
        """How many images there are, readable or not; None if unknown."""

    def batches(
        self,
        preprocessing: Preprocessing | None,
        batch_size: int,
        start: int = 0,
        shape: Sequence[int] | None = None,
    ) -> Iterator[ImageBatch]:
        """The images from position ``start`` on.

        Args:
            preprocessing: how pictures become tensors; None if they are tensors.
            batch_size: images at a time; a loader keeps its own.
            start: position to begin at.
            shape: what every picture must have after preprocessing, ``[channels, height, width]``;
                None takes that of the first readable one.
        """


class ImageLoader:
    """The batches of a data loader, or of any iterable, each ``(x, y, name, group)`` or a beginning
    of it, and None where a value is unknown.

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
        self,
        preprocessing: Preprocessing | None,
        batch_size: int,
        start: int = 0,
        shape: Sequence[int] | None = None,
    ) -> Iterator[ImageBatch]:
        end = 0
        for item in self.loader:
            images, labels, given, groups = _parts(item)
            tensor = as_images(images, preprocessing)
            names = given or tuple(str(position) for position in range(end, end + len(tensor)))
            for kind, given_rows in (("names", names), ("groups", groups), ("labels", labels)):
                if given_rows is not None and len(given_rows) != len(tensor):
                    raise InvalidInput(
                        f"A batch of {len(tensor)} images has {len(given_rows)} {kind}: give one "
                        "an image."
                    )
            skipped = slice(max(0, start - end), None)
            end += len(tensor)
            if end <= start:
                continue
            tensor, names = tensor[skipped], names[skipped]
            labels = None if labels is None else labels[skipped]
            groups = None if groups is None else groups[skipped]
            digests = stacked_digests([tensor_digest(image) for image in tensor])
            yield ImageBatch(tensor, labels, names, digests, group_digests(groups), (), end)


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
    if isinstance(images, Tensor) and type(images) is not Tensor:
        images = images.as_subclass(Tensor)  # MONAI's MetaTensor carries patient metadata
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


def _parts(
    item: Any,
) -> tuple[Any, Tensor | None, tuple[str, ...] | None, tuple[str, ...] | None]:
    """Images, labels, names and groups of what a loader yields."""
    if not isinstance(item, tuple | list):
        return item, None, None, None
    if all(isinstance(image, Image.Image | str | Path) for image in item):
        return item, None, None, None  # a list of images rather than images, labels and so on
    if len(item) not in (1, 2, 3, 4):
        raise InvalidInput(
            f"A loader must yield x, (x, y), (x, y, name) or (x, y, name, group), got {len(item)} "
            "values."
        )
    images, labels, names, groups = (*item, None, None, None)[:4]
    if labels is not None and not isinstance(labels, Tensor | np.ndarray | Sequence):
        raise InvalidInput(f"Labels must be a tensor [N], got {labels!r}.")
    try:
        labels = None if labels is None else torch.as_tensor(labels)
    except (TypeError, ValueError, RuntimeError):
        text = str(labels)[:60]
        raise InvalidInput(f"Labels must be a tensor [N] of class indices, got {text}.") from None
    return images, labels, _texts("names", names), _texts("groups", groups)


def _texts(kind: str, values: Any) -> tuple[str, ...] | None:
    """Names or groups as text: one an image, text or whole numbers."""
    if isinstance(values, Tensor | np.ndarray):
        values = values.tolist()
    if values is None:
        return None
    plain = isinstance(values, list | tuple)
    if not plain or any(isinstance(v, bool) or not isinstance(v, str | int) for v in values):
        raise InvalidInput(
            f"The {kind} of a batch must be a list of text or integers, one an image, got "
            f"{str(values)[:60]}."
        )
    return tuple(str(value) for value in values)


def group_digests(groups: Sequence[str] | None) -> Tensor | None:
    """Hashes of what images belong to, ``[N, 16]`` uint8: all that is kept of a patient's name."""
    if groups is None:
        return None
    return stacked_digests([digest(group.encode(errors="surrogateescape")) for group in groups])


def stacked_digests(digests: list[bytes]) -> Tensor:
    """Hashes as a tensor, ``[N, 16]`` uint8."""
    joined = bytearray(b"".join(digests))
    flat = torch.frombuffer(joined, dtype=torch.uint8) if joined else torch.empty(0)
    return flat.to(torch.uint8).view(-1, DIGEST_BYTES)
