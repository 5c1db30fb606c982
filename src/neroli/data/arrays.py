"""Arrays of images on disk: ``.npy`` and ``.npz`` files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from PIL import Image

from neroli.data.folders import stamp
from neroli.data.images import array_pictures
from neroli.data.pictures import Pictures
from neroli.data.sources import Content
from neroli.errors import InvalidInput
from neroli.files import digest

Array = np.ndarray[Any, Any]


class ArrayReader:
    """Reads the images of a uint8 array ``[N, H, W, 1 or 3]`` or ``[N, H, W]``."""

    content: Content = "picture"

    def __init__(self, images: Array, version: str) -> None:
        self._images = images
        self._version = version

    def __len__(self) -> int:
        return len(self._images)

    def stamp(self, position: int) -> str:
        return f"{self._version} {position}"

    def read(self, position: int) -> tuple[bytes, Image.Image]:
        (picture,) = array_pictures(np.asarray(self._images[position]))
        return picture_digest(picture), picture


class ArrayFile(Pictures):
    """The images of an array file, named by their position.

    Args:
        path: a ``.npy`` file, which is mapped into memory, or an ``.npz`` file, which is read into
            it, with ``images`` and perhaps ``labels`` (class indices or names) and ``groups``.
        workers: threads that prepare images ahead of the network.

    Raises:
        InvalidInput: if the file cannot be read, holds Python objects or no uint8 images, or labels
            or groups that are not one an image.
        NotEnoughImages: if there is no image in it.
    """

    def __init__(self, path: Path | str, *, workers: int | None = None) -> None:
        path = Path(path)
        arrays = _read(path)
        if "images" not in arrays:
            raise InvalidInput(
                f"{str(path)!r} has no array 'images'; it has "
                f"{', '.join(map(repr, sorted(arrays)[:8])) or 'none'}."
            )
        images = arrays["images"]
        if (
            images.dtype != np.uint8
            or images.ndim not in (3, 4)
            or images.shape[3:] not in _CHANNELS
        ):
            raise InvalidInput(
                f"The images of {str(path)!r} must be uint8 [N, H, W, 1 or 3] or [N, H, W], got "
                f"{images.dtype} {list(images.shape)}."
            )
        super().__init__(
            ArrayReader(images, stamp(path)),
            [str(position) for position in range(len(images))],
            _column(path, arrays, "labels"),
            _column(path, arrays, "groups", as_text=True),
            workers=workers,
        )


_CHANNELS = ((), (1,), (3,))


def picture_digest(picture: Image.Image) -> bytes:
    """The hash of a picture's pixels."""
    return digest(f"{picture.mode}{picture.size}".encode(), picture.tobytes())


def _read(path: Path) -> Mapping[str, Array]:
    try:
        if path.suffix.lower() == ".npy":
            return {"images": np.load(path, mmap_mode="r", allow_pickle=False)}
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in ("images", "labels", "groups") if name in file}
    except (OSError, ValueError, EOFError, BadZipFile) as error:
        raise InvalidInput(f"Cannot read the arrays of {str(path)!r}: {error}") from None


def _column(path: Path, arrays: Mapping[str, Array], name: str, *, as_text: bool = False) -> Any:
    values = arrays.get(name)
    if values is None:
        return None
    if values.ndim != 1 or values.dtype.kind not in "iuU":
        raise InvalidInput(
            f"The {name} of {str(path)!r} must be one integer or text an image, got "
            f"{values.dtype} {list(values.shape)}."
        )
    return [str(value) for value in values] if as_text else values.tolist()
