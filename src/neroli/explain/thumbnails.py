"""Thumbnails of training images, kept only where asked for: they may be patient data."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor

from neroli.data.preprocessing import Preprocessing
from neroli.data.sources import IMAGE_BATCH, ImageSource
from neroli.explain.pictures import pictures_of

SIDE = 64
"""Pixels of a thumbnail's longer side; beside the shorter one it is white."""


def thumbnails(
    source: ImageSource,
    preprocessing: Preprocessing | None,
    shape: Sequence[int] | None,
    wanted: Tensor,
) -> tuple[Tensor, Tensor]:
    """Small pictures of some images of a source, as the network was given them.

    Args:
        source: which is read until all are found.
        preprocessing: as it was when their activations were extracted.
        shape: what every image has after it, ``[channels, height, width]``.
        wanted: hashes of their contents, ``[E, 16]`` uint8.

    Returns:
        ``[E, 64, 64, 3]`` uint8, white where an image is not found, and which are, ``[E]`` bool.
    """
    place = {bytes(row): number for number, row in enumerate(wanted.numpy())}
    pictures = torch.full((len(wanted), SIDE, SIDE, 3), 255, dtype=torch.uint8)
    found = torch.zeros(len(wanted), dtype=torch.bool)
    for batch in source.batches(preprocessing, IMAGE_BATCH, shape=shape):
        digests = [bytes(row) for row in batch.digests.numpy()]
        rows = [row for row, digest in enumerate(digests) if digest in place]
        if rows:
            shown = pictures_of(batch.images[rows], preprocessing)
            for row, picture in zip(rows, shown, strict=True):
                number = place.pop(digests[row], None)
                if number is not None:  # else the second of two equal ones
                    pictures[number] = _small(Image.fromarray(picture))
                    found[number] = True
        if not place:
            break
    return pictures, found


def _small(picture: Image.Image) -> Tensor:
    """A picture in the middle of a white square, ``[64, 64, 3]`` uint8."""
    longer = max(picture.size)
    width, height = (max(1, round(side * SIDE / longer)) for side in picture.size)
    # pixels that are enlarged stay visible as such
    how = Image.Resampling.NEAREST if longer < SIDE else Image.Resampling.LANCZOS
    square = Image.new("RGB", (SIDE, SIDE), "white")
    square.paste(picture.resize((width, height), how), ((SIDE - width) // 2, (SIDE - height) // 2))
    pixels = torch.frombuffer(bytearray(square.tobytes()), dtype=torch.uint8)
    return pixels.view(SIDE, SIDE, 3)
