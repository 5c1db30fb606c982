"""Pictures from several places as one set."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate

from PIL import Image

from neroli.data.pictures import Pictures, Reader
from neroli.data.sources import Content
from neroli.errors import InvalidInput


class JoinedReader:
    """Reads the pictures of several readers one after the other.

    Raises:
        InvalidInput: if the hashes of their pictures are of different things.
    """

    def __init__(self, parts: Sequence[Reader]) -> None:
        kinds = sorted({part.content for part in parts})
        if len(kinds) > 1:
            raise InvalidInput(
                f"Images kept as {' and as '.join(kinds)} cannot be one set, since their hashes do "
                "not compare: give them as separate sets."
            )
        self.content: Content = parts[0].content
        self.starts = list(accumulate((len(part) for part in parts), initial=0))
        self._parts = parts

    def __len__(self) -> int:
        return self.starts[-1]

    def stamp(self, position: int) -> str:
        part, row = self._place(position)
        return part.stamp(row)

    def read(self, position: int) -> tuple[bytes, Image.Image]:
        part, row = self._place(position)
        return part.read(row)

    def _place(self, position: int) -> tuple[Reader, int]:
        number = bisect_right(self.starts, position) - 1
        return self._parts[number], position - self.starts[number]


def joined(sets: Sequence[Pictures]) -> Pictures:
    """Several sets as one, in their order, without labels and groups.

    Args:
        sets: at least one.

    Raises:
        InvalidInput: if the hashes of their pictures are of different things.
    """
    reader = JoinedReader([images.reader for images in sets])
    names, rows = [""] * len(reader), []
    for start, images in zip(reader.starts, sets, strict=False):
        for row, name in zip(images.rows, images.names, strict=True):
            names[start + row] = name
            rows.append(start + row)
    return Pictures(reader, names).subset(rows)
