"""Thumbnails of training images, kept only where asked for: they may be patient data."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor

from neroli.data.preprocessing import Preprocessing
from neroli.data.sources import ImageSource
from neroli.explain.pictures import pictures_of
from neroli.extraction import IMAGE_BATCH

SIDE = 64
"""Pixels of a thumbnail's longer side; the shorter one is filled up with white."""


def thumbnails(
    source: ImageSource,
    preprocessing: Preprocessing | None,
    shape: Sequence[int] | None,
    wanted: Tensor,
) -> Tensor:
    """Small pictures of some images of a source, as the network was given them.

    Args:
        source: which is read until all are found.
        preprocessing: as it was when their activations were extracted.
        shape: what every image has after it, ``[channels, height, width]``.
        wanted: hashes of their contents, ``[E, 16]`` uint8.

    Returns:
        ``[E, 64, 64, 3]`` uint8, white where an image is not found.
    """
    place = {bytes(row): number for number, row in enumerate(wanted.numpy())}
    found = torch.full((len(wanted), SIDE, SIDE, 3), 255, dtype=torch.uint8)
    for batch in source.batches(preprocessing, IMAGE_BATCH, shape=shape):
        digests = [bytes(row) for row in batch.digests.numpy()]
        rows = [row for row, digest in enumerate(digests) if digest in place]
        if rows:
            pictures = pictures_of(batch.images[rows], preprocessing)
            for row, picture in zip(rows, pictures, strict=True):
                small = Image.fromarray(picture)
                small.thumbnail((SIDE, SIDE))
                width, height = small.size
                pixels = torch.frombuffer(bytearray(small.tobytes()), dtype=torch.uint8)
                found[place.pop(digests[row]), :height, :width] = pixels.view(height, width, 3)
        if not place:
            break
    return found
