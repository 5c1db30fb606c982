"""Pictures known one by one, whatever keeps them: decoded ahead of the network, in batches."""

from __future__ import annotations

import copy
import itertools
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol, Self

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from neroli.data.preprocessing import Preprocessing
from neroli.data.sources import (
    NO_PREPROCESSING,
    Content,
    Failure,
    ImageBatch,
    group_digests,
    stacked_digests,
)
from neroli.errors import InvalidInput, NotEnoughImages, UnreadableImage
from neroli.files import text_digest

Loaded = tuple[bytes, Tensor] | str
"""The hash and the uint8 pixels of a picture, or why it could not be read."""


class Reader(Protocol):
    """Reads single pictures out of what they are kept in; called from several threads at once."""

    @property
    def content(self) -> Content:
        """What the hashes are of."""

    def __len__(self) -> int:
        """How many there are."""

    def stamp(self, position: int) -> str:
        """What changes when this picture does, found without decoding it."""

    def read(self, position: int) -> tuple[bytes, Image.Image]:
        """The hash of a picture's content, and the picture in mode L or RGB.

        Raises:
            UnreadableImage: with the reason, which continues a sentence that begins with its name.
        """


class Pictures:
    """Pictures in the order given, as a source of batches for the network.

    Args:
        reader: what they are kept in.
        names: what each is called in results.
        labels: of each its class index, or what the data call its class (``labelled`` makes one of
            the other); None if unknown.
        groups: what each belongs to, such as a patient, which must not be in both training and
            calibration; of these only hashes are ever stored.
        workers: threads that read and decode ahead of the network.

    Raises:
        NotEnoughImages: if there are none.
        InvalidInput: if names, labels or groups are not as many as the pictures.
    """

    label_noun = "label"
    """What messages call a label."""

    def __init__(
        self,
        reader: Reader,
        names: Sequence[str],
        labels: Sequence[int] | Sequence[str] | None = None,
        groups: Sequence[str] | None = None,
        *,
        workers: int | None = None,
    ) -> None:
        self.workers = workers or min(4, os.cpu_count() or 1)
        self.reader = reader
        self.rows = list(range(len(reader)))
        _check_column("labels", labels, (int, str))
        _check_column("groups", groups, (str,))
        stated = labels is not None and any(isinstance(label, str) for label in labels)
        self.names = list(names)
        self.labels = None if labels is None or stated else [int(label) for label in labels]
        self.stated_labels = [str(label) for label in labels or ()] if stated else None
        self.groups = None if groups is None else list(groups)
        for kind, given in (("names", names), ("labels", labels), ("groups", groups)):
            if given is not None and len(given) != len(self.rows):
                raise InvalidInput(f"There are {len(given)} {kind} for {len(self.rows)} images.")
        if not self.rows:
            raise NotEnoughImages("There is no image in the list: give at least one.")

    def __len__(self) -> int:
        return len(self.rows)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self)} images)"

    @property
    def content(self) -> Content:
        return self.reader.content

    @property
    def size(self) -> int:
        return len(self)

    @property
    def fingerprint(self) -> str:
        empty = itertools.repeat("")
        columns = (self.labels or empty, self.groups or empty)
        return text_digest(
            f"{name} {label} {group} {self.reader.stamp(row)}"
            for name, row, label, group in zip(self.names, self.rows, *columns, strict=False)
        )

    def label_names(self) -> list[str]:
        """The distinct labels that the data state, sorted; none once they are class indices."""
        return sorted(set(self.stated_labels or ()))

    def labelled(self, classes: Mapping[str, int]) -> Self:
        """The same pictures with class indices for the labels that the data state.

        Raises:
            InvalidInput: if a picture has no label, or one that is not in ``classes``.
            NotEnoughImages: if a class has no picture.
        """
        labels = self.stated_labels or [""] * len(self)
        for name, label in zip(self.names, labels, strict=True):
            if label not in classes:
                raise InvalidInput(self._unlabelled(name, label))
        empty = sorted(classes.keys() - set(labels))
        if empty:
            raise NotEnoughImages(
                f"The class {self.label_noun} {empty[0]!r} has no image: add images of that class."
            )
        return self._with(labels=[classes[label] for label in labels], stated_labels=None)

    def unlabelled(self) -> Self:
        """The same pictures without labels."""
        return self._with(labels=None, stated_labels=None)

    def subset(self, positions: Sequence[int]) -> Self:
        """Some of the pictures, in the order of ``positions``.

        Raises:
            NotEnoughImages: if there are none.
        """
        if not positions:
            raise NotEnoughImages(f"There is no image in this subset of {len(self)}.")
        columns = {}
        for column in ("rows", "names", "labels", "stated_labels", "groups"):
            values = getattr(self, column)
            columns[column] = None if values is None else [values[p] for p in positions]
        return self._with(**columns)

    def batches(
        self,
        preprocessing: Preprocessing | None,
        batch_size: int,
        start: int = 0,
        shape: Sequence[int] | None = None,
    ) -> Iterator[ImageBatch]:
        if preprocessing is None:
            raise InvalidInput(NO_PREPROCESSING)
        if shape is None:
            shape = self._first_shape(preprocessing)

        def load(position: int) -> Loaded:
            try:
                content, picture = self.reader.read(self.rows[position])
                return content, sized(preprocessing.pixels(picture), shape)
            except UnreadableImage as error:
                return str(error)

        with ThreadPoolExecutor(self.workers) as pool:
            starts = range(start, len(self), batch_size)
            ahead: list[Any] = []
            for begin in [*starts, None, None]:  # two batches are decoded ahead
                if begin is not None:
                    part = slice(begin, min(begin + batch_size, len(self)))
                    positions = range(part.start, part.stop)
                    ahead.append((part, [pool.submit(load, p) for p in positions]))
                if len(ahead) > 2 or (begin is None and ahead):
                    part, pending = ahead.pop(0)
                    yield loaded_batch(
                        preprocessing,
                        [future.result() for future in pending],
                        self.names[part],
                        None if self.labels is None else self.labels[part],
                        None if self.groups is None else self.groups[part],
                        part.stop,
                    )

    def _first_shape(self, preprocessing: Preprocessing) -> torch.Size | None:
        """The shape of the first readable picture; all must have it to make a batch."""
        for row in self.rows:
            try:
                return preprocessing.pixels(self.reader.read(row)[1]).shape
            except UnreadableImage:
                continue
        return None

    def _unlabelled(self, name: str, label: str) -> str:
        """Why a picture cannot be used in training."""
        if not label:
            return f"{name!r} has no label: give it one, or leave it out of the training images."
        return f"{name!r} has the {self.label_noun} {label!r}, which is none of the classes."

    def _with(self, **changes: Any) -> Self:
        changed = copy.copy(self)
        changed.__dict__.update(changes)
        return changed


def _check_column(kind: str, values: Sequence[object] | None, types: tuple[type, ...]) -> None:
    """Raise InvalidInput unless all values are of one of the types."""
    for value in values or ():
        if isinstance(value, bool) or not isinstance(value, (*types, np.integer)):
            raise InvalidInput(
                f"The {kind} must be {' or '.join(t.__name__ for t in types)} each, got {value!r}: "
                "leave out the images of which it is not known."
            )


def sized(pixels: Tensor, shape: Sequence[int] | None) -> Tensor:
    """The pixels ``[channels, height, width]``, if they have the shape that the others have.

    Raises:
        UnreadableImage: if they have not.
    """
    if shape is not None and tuple(pixels.shape) != tuple(shape):
        raise UnreadableImage(
            f"is {pixels.shape[2]}x{pixels.shape[1]} pixels after preprocessing, other images are "
            f"{shape[2]}x{shape[1]}; fit with --resize HEIGHTxWIDTH"
        )
    return pixels


def loaded_batch(
    preprocessing: Preprocessing,
    loaded: Sequence[Loaded],
    names: Sequence[str],
    labels: Sequence[int] | None,
    groups: Sequence[str] | None,
    end: int,
) -> ImageBatch:
    """A batch of the pictures that could be read, and the others as its failures."""
    rows = [row for row, item in enumerate(loaded) if not isinstance(item, str)]
    good = [item for item in loaded if not isinstance(item, str)]
    pixels = [image for _, image in good]
    classes = None if labels is None else [labels[row] for row in rows]
    return ImageBatch(
        images=preprocessing.normalised(torch.stack(pixels)) if pixels else torch.empty(0),
        labels=None if classes is None else torch.tensor(classes, dtype=torch.int64),
        names=tuple(names[row] for row in rows),
        digests=stacked_digests([content for content, _ in good]),
        groups=group_digests(None if groups is None else [groups[row] for row in rows]),
        failures=tuple(
            Failure(name, item)
            for name, item in zip(names, loaded, strict=True)
            if isinstance(item, str)
        ),
        end=end,
    )
