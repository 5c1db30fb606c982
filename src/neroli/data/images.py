"""Image files and arrays to pictures, by stated rules.

EXIF orientation is honoured; a palette or CMYK image becomes RGB; transparency is laid on white;
16-bit grey is divided by 257, so that its whole range becomes 0..255; of an animation the first
frame counts. Anything else (float or 32-bit pixels, other colour spaces than Pillow converts,
truncated files) is unreadable rather than guessed.
"""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from neroli.errors import InvalidInput, TooManyPixels, UnreadableImage

MAX_PIXELS = 89_000_000
"""Larger images (decompression bombs, whole slides) are refused before they are decompressed.

Pillow itself warns at 89.5 million pixels and refuses at twice as many."""

MAX_BYTES = 2**30
"""Larger files are no single pictures."""

FORMATS = ("BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
"""What is decoded; not EPS and the like, which Pillow hands to other programs."""

EXTENSIONS = frozenset(
    {".bmp", ".gif", ".jpeg", ".jpg", ".jp2", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
)


def read_image(path: Path) -> tuple[bytes, Image.Image]:
    """The bytes of an image file, and its picture in mode L or RGB.

    Raises:
        UnreadableImage: if it cannot be read or decoded, with the reason; the message continues a
            sentence that begins with the name of the file.
    """
    try:
        with open(path, "rb", opener=_open_at_once) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise UnreadableImage("is no plain file")
            if status.st_size > MAX_BYTES:
                raise UnreadableImage(f"has {status.st_size:,} bytes, more than {MAX_BYTES:,}")
            content = file.read(MAX_BYTES)
    except (OSError, ValueError) as error:  # ValueError: a null byte in the name
        if isinstance(error, UnreadableImage):
            raise
        raise UnreadableImage(f"cannot be read: {getattr(error, 'strerror', error)}") from None
    if not content:
        raise UnreadableImage("is empty (0 bytes)")
    return content, decode(content)


def _open_at_once(path: str, flags: int) -> int:
    """Open a file without waiting for a writer, which a named pipe would do."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def decode(content: bytes) -> Image.Image:
    """The picture, in mode L or RGB, of an encoded image file's bytes.

    Raises:
        UnreadableImage: as ``read_image``.
    """
    with _opened(content) as image:
        image.load()
        unsigned = image.format in ("PNG", "PPM")  # their mode I is 16-bit unsigned
        return to_picture(ImageOps.exif_transpose(image), unsigned_16_bit=unsigned)


def size_of(content: bytes) -> tuple[int, int]:
    """Width and height that an encoded image file's bytes claim, without decoding them.

    Raises:
        UnreadableImage: as ``read_image``.
    """
    with _opened(content) as image:
        return image.size


@contextmanager
def _opened(content: bytes) -> Iterator[Image.Image]:
    """An image not decoded yet; whatever goes wrong with it is a reason why it is unreadable."""
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise TooManyPixels(
                    f"is {image.width}x{image.height} pixels, more than the {MAX_PIXELS:,} "
                    "allowed; cut it into smaller images"
                )
            yield image
    except UnreadableImage:
        raise
    except UnidentifiedImageError:
        raise UnreadableImage(f"is not an image in a known format ({', '.join(FORMATS)})") from None
    except Image.DecompressionBombError:
        raise TooManyPixels(f"has more than the {MAX_PIXELS:,} pixels allowed") from None
    except Exception as error:  # decoders raise whatever they like on damaged files
        told = "is damaged or truncated"
        raise UnreadableImage(f"{told}: {error}", told) from None


def to_picture(image: Image.Image, *, unsigned_16_bit: bool = False) -> Image.Image:
    """An image of any colour mode as L or RGB, by the rules above.

    Args:
        image: the image.
        unsigned_16_bit: whether pixels of mode I are known to be 16-bit unsigned.

    Raises:
        UnreadableImage: if there is no rule for its mode.
    """
    if image.mode.startswith("I;16") or (image.mode == "I" and unsigned_16_bit):
        return Image.fromarray((np.asarray(image).astype(np.uint16) / 257).round().astype(np.uint8))
    if image.mode in ("LA", "La", "RGBA", "RGBa", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, image).convert("RGB")
    if image.mode in ("L", "RGB"):
        return image
    if image.mode == "1":
        return image.convert("L")
    if image.mode in ("P", "CMYK", "YCbCr", "LAB", "HSV", "RGBX"):
        return image.convert("RGB")
    raise UnreadableImage(
        f"has pixels of mode {image.mode!r}, for which there is no rule to convert them; "
        "save it as 8- or 16-bit grey or 8-bit RGB"
    )


def loaded_picture(image: Image.Image) -> Image.Image:
    """A Pillow image, perhaps of a file not read yet, in mode L or RGB.

    Raises:
        UnreadableImage: as ``decode``.
    """
    try:
        image.load()
        if 0 in image.size:
            raise UnreadableImage(f"is {image.width}x{image.height} pixels")
        return to_picture(image)
    except UnreadableImage:
        raise
    except Exception as error:
        raise UnreadableImage(f"is damaged or closed: {error}") from None


def array_pictures(array: np.ndarray[Any, Any]) -> list[Image.Image]:
    """The pictures of a uint8 array: ``[N, H, W, 1 or 3]``, ``[N, H, W]``, or one image of these.

    Raises:
        InvalidInput: if its dtype or shape is another.
    """
    if array.dtype != np.uint8:
        raise InvalidInput(
            f"An array of images must be uint8, got {array.dtype}; for values that are already "
            "preprocessed give a torch float tensor."
        )
    shape = list(array.shape)
    if array.ndim == 2 or (array.ndim == 3 and array.shape[-1] in (1, 3)):
        array = array[None]
    if array.ndim == 4 and array.shape[-1] == 1:
        array = array[..., 0]
    if not (array.ndim == 3 or (array.ndim == 4 and array.shape[-1] == 3)) or 0 in array.shape:
        raise InvalidInput(
            f"An array of images must be [N, H, W, 1 or 3], [N, H, W] or one image, got {shape}."
        )
    return [Image.fromarray(picture) for picture in array]
