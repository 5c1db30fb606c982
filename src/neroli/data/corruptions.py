"""Corrupted pictures: in-distribution images spoiled until they stand in for OOD data.

Every picture gets one of ``KINDS``, drawn from its content and a seed, so that neither the order of
the pictures nor the number of workers matters. Strengths are relative to the size of the picture.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TypeVar

import numpy as np
from PIL import Image, ImageFilter, ImageOps

from neroli.data.arrays import picture_digest
from neroli.data.pictures import Pictures, Reader
from neroli.data.sources import Content
from neroli.files import digest

PicturesT = TypeVar("PicturesT", bound=Pictures)

Corruption = Callable[[Image.Image, np.random.Generator], Image.Image]
"""What becomes of a picture in mode L or RGB; its size and mode stay."""

_VERSION = 1
"""Raised whenever a corruption changes, so that stores of corrupted pictures are made anew."""

_GRAINS = 64
_NOISE = 80.0
_CONTRAST = 0.1
_PIECES = 4


def noise(picture: Image.Image, draw: np.random.Generator) -> Image.Image:
    """Gaussian noise with a standard deviation of 80 of 255, in grains that survive resizing.

    A grain is 1/64 of the longer side, at least a pixel: finer noise on a large picture would be
    averaged away when the picture is brought to the network's size.
    """
    pixels = np.asarray(picture)
    grain = max(1, max(picture.size) // _GRAINS)
    rows, columns = (-(-side // grain) for side in pixels.shape[:2])
    added = draw.normal(0.0, _NOISE, (rows, columns, *pixels.shape[2:]))
    added = added.repeat(grain, axis=0)[: len(pixels)].repeat(grain, axis=1)[:, : pixels.shape[1]]
    return Image.fromarray((pixels + added).round().clip(0, 255).astype(np.uint8))


def blur(picture: Image.Image, draw: np.random.Generator) -> Image.Image:
    """Gaussian blur with a standard deviation of 1/8 of the longer side."""
    return picture.filter(ImageFilter.GaussianBlur(max(picture.size) / 8))


def negative(picture: Image.Image, draw: np.random.Generator) -> Image.Image:
    """Every value v becomes 255 - v."""
    return ImageOps.invert(picture)


def faded(picture: Image.Image, draw: np.random.Generator) -> Image.Image:
    """A tenth of the contrast: every value is brought close to the mean of its channel."""
    pixels = np.asarray(picture, dtype=np.float64)
    mean = pixels.mean(axis=(0, 1))
    return Image.fromarray((mean + _CONTRAST * (pixels - mean)).round().astype(np.uint8))


def jigsaw(picture: Image.Image, draw: np.random.Generator) -> Image.Image:
    """Cut into 4 x 4 pieces that are put together in another order.

    Where the sides are no multiples of four, pieces differ by a pixel and are resized to fit.
    """
    columns, rows = (min(_PIECES, side) for side in picture.size)
    xs, ys = (
        [side * i // count for i in range(count + 1)]
        for side, count in zip(picture.size, (columns, rows), strict=True)
    )
    boxes = [(xs[i], ys[j], xs[i + 1], ys[j + 1]) for j in range(rows) for i in range(columns)]
    shuffled = picture.copy()
    for box, source in zip(boxes, draw.permutation(len(boxes)), strict=True):
        size = (box[2] - box[0], box[3] - box[1])
        shuffled.paste(picture.crop(boxes[source]).resize(size), box[:2])
    return shuffled


def zoomed(picture: Image.Image, draw: np.random.Generator) -> Image.Image:
    """A part of a quarter of each side, from anywhere in the picture, brought to the whole size."""
    width, height = (max(1, side // 4) for side in picture.size)
    left = int(draw.integers(picture.width - width + 1))
    top = int(draw.integers(picture.height - height + 1))
    part = picture.crop((left, top, left + width, top + height))
    return part.resize(picture.size, Image.Resampling.BILINEAR)


KINDS: tuple[Corruption, ...] = (noise, blur, negative, faded, jigsaw, zoomed)
"""What a picture can become."""


def corrupted(pictures: PicturesT, seed: int = 0) -> PicturesT:
    """The same pictures, each with one of ``KINDS``; unreadable ones stay so.

    Args:
        pictures: in-distribution pictures, which are read again and left as they are.
        seed: of what becomes of each.
    """
    changed = copy.copy(pictures)
    changed.reader = CorruptedReader(pictures.reader, seed)
    return changed


class CorruptedReader:
    """Reads what another reader reads, and corrupts it.

    Args:
        reader: of the original pictures.
        seed: of what becomes of each.
    """

    content: Content = "picture"

    def __init__(self, reader: Reader, seed: int) -> None:
        self._reader = reader
        self._seed = seed

    def __len__(self) -> int:
        return len(self._reader)

    def stamp(self, position: int) -> str:
        return f"{self._reader.stamp(position)} corrupted {_VERSION} {self._seed}"

    def read(self, position: int) -> tuple[bytes, Image.Image]:
        original, picture = self._reader.read(position)
        key = digest(original, f"{_VERSION} {self._seed}".encode())
        draw = np.random.default_rng(list(key))
        changed = KINDS[draw.integers(len(KINDS))](picture, draw)
        if changed.tobytes() == picture.tobytes():  # of one colour, say, which has nothing to blur
            changed = negative(picture, draw)
        return picture_digest(changed), changed
