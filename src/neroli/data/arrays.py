"""Arrays of images on disk: ``.npy`` and ``.npz`` files, and SVHN's ``.mat``."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from neroli.data.folders import stamp
from neroli.data.images import MAX_PIXELS, array_pictures
from neroli.data.pictures import Pictures
from neroli.data.sources import Content
from neroli.errors import InvalidInput, UnreadableImage
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
        height, width = self._images.shape[1:3]
        if height * width > MAX_PIXELS:
            raise UnreadableImage(
                f"is {width}x{height} pixels, more than the {MAX_PIXELS:,} allowed"
            )
        (picture,) = array_pictures(np.asarray(self._images[position]))
        return picture_digest(picture), picture


class ArrayFile(Pictures):
    """The images of an array file, named by their position.

    Args:
        path: a ``.npy`` file, which is mapped into memory; an ``.npz`` file, which is read into it,
            with ``images`` and perhaps ``labels`` (class indices or names) and ``groups``; or a
            ``.mat`` file of SVHN, which has ``X [H, W, 3, N]`` and perhaps ``y``, where 10 is the
            digit 0.
        workers: threads that prepare images ahead of the network.

    Raises:
        InvalidInput: if the file cannot be read, holds Python objects or no uint8 images, or labels
            or groups that are not one an image.
        NotEnoughImages: if there is no image in it.
    """

    def __init__(self, path: Path | str, *, workers: int | None = None) -> None:
        path = Path(path)
        arrays = _read(path)
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


MAX_LABEL = 2**31
MAX_BYTES = 2**36
"""An .npz or .mat is read into memory, so one that unpacks to more is refused."""
_CHANNELS = ((), (1,), (3,))
_VERSION_7_3 = b"MATLAB 7.3 MAT-file"


def picture_digest(picture: Image.Image) -> bytes:
    """The hash of a picture's pixels."""
    return digest(f"{picture.mode}{picture.size}".encode(), picture.tobytes())


def _read(path: Path) -> Mapping[str, Array]:
    try:
        if path.suffix.lower() == ".npy":
            return {"images": np.lib.format.open_memmap(path, mode="r")}
        if path.suffix.lower() == ".mat":
            return _read_svhn(path)
        with zipfile.ZipFile(path) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
            _check_size(size)
        with np.load(path, allow_pickle=False) as file:
            wanted = [name for name in ("images", "labels", "groups") if name in file]
            if "images" not in wanted:
                raise ValueError(f"it has no array 'images', but {', '.join(file.files[:8])}")
            return {name: file[name] for name in wanted}
    except Exception as error:  # NumPy raises whatever it likes on damaged files
        raise InvalidInput(
            f"Cannot read the arrays of {str(path)!r} ({error or type(error).__name__}): give a "
            ".npy file, an .npz with uint8 'images', or SVHN's .mat."
        ) from None


def _read_svhn(path: Path) -> Mapping[str, Array]:
    """The images and labels of a MATLAB file in the layout of SVHN's cropped digits.

    Raises:
        ValueError: if it has no such arrays. SciPy raises others on damaged files.
    """
    from scipy import io

    with path.open("rb") as file:
        if file.read(len(_VERSION_7_3)) == _VERSION_7_3:
            raise ValueError("MATLAB's version 7.3 is not read: save it as version 5")
    shapes = {name: (shape, kind) for name, shape, kind in io.whosmat(path)}
    shape, kind = shapes.get("X", ((), "nothing"))
    if len(shape) != 4 or kind != "uint8":
        raise ValueError(f"'X' must be uint8 [H, W, 3, N], got {kind} {list(shape)}")
    _check_size(math.prod(shape))
    arrays = io.loadmat(path, variable_names=("X", "y"))
    found = {"images": arrays["X"].transpose(3, 0, 1, 2)}
    if "y" in arrays:
        found["labels"] = arrays["y"].ravel() % 10
    return found


def _check_size(size: int) -> None:
    if size > MAX_BYTES:
        raise ValueError(f"it unpacks to {size:,} bytes: save the images as a .npy file")


def _column(path: Path, arrays: Mapping[str, Array], name: str, *, as_text: bool = False) -> Any:
    values = arrays.get(name)
    if values is None:
        return None
    if values.ndim != 1 or values.dtype.kind not in "iuU":
        raise InvalidInput(
            f"The {name} of {str(path)!r} must be one integer or text an image, got "
            f"{values.dtype} {list(values.shape)}."
        )
    if values.dtype.kind in "iu" and not as_text:
        outside = values[(values < 0) | (values > MAX_LABEL)]
        if len(outside):
            raise InvalidInput(
                f"The labels of {str(path)!r} hold {outside[0]}: give class indices."
            )
    return [str(value) for value in values] if as_text else values.tolist()
