"""The binary version of CIFAR: records of label bytes and 32x32 pixels, mapped into memory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from neroli.data.arrays import ArrayReader
from neroli.data.folders import stamp
from neroli.data.joining import JoinedReader
from neroli.data.pictures import Pictures
from neroli.errors import InvalidInput, NotEnoughImages

PIXELS = 3 * 32 * 32


def binary_pictures(paths: Sequence[Path], label_bytes: int, num_classes: int) -> Pictures:
    """The images of binary files one after the other, named by file and position in it.

    The files stay on disk; to find the labels they are read once, but not kept.

    Args:
        paths: the files.
        label_bytes: how many stand before the pixels of a record; the last is the class.
        num_classes: how many classes there are.

    Raises:
        InvalidInput: if a file is not whole records, or states a class that there is not.
        NotEnoughImages: if a file is empty.
    """
    readers, names, labels = [], [], []
    record = label_bytes + PIXELS
    for path in paths:
        size = path.stat().st_size
        if size == 0:
            raise NotEnoughImages(f"{str(path)!r} is empty (0 bytes): download it again.")
        if size % record:
            raise InvalidInput(
                f"{str(path)!r} is damaged: its {size:,} bytes are no whole number of records of "
                f"{record:,} bytes; download it again."
            )
        records = np.memmap(path, np.uint8, "r").reshape(-1, record)
        stated = records[:, label_bytes - 1].tolist()
        if max(stated) >= num_classes:
            raise InvalidInput(
                f"{str(path)!r} is damaged: it states the class {max(stated)}, of {num_classes} "
                "classes; download it again."
            )
        # A view: colour planes to [N, H, W, 3] without a copy.
        images = records[:, label_bytes:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        readers.append(ArrayReader(images, stamp(path)))
        names += [f"{path.name}/{row}" for row in range(len(images))]
        labels += stated
    return Pictures(JoinedReader(readers), names, labels)
