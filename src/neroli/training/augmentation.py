"""Augmentation: training pictures changed at random, the same in every run of a seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from neroli.data.pictures import Pictures
from neroli.data.preprocessing import Preprocessing
from neroli.data.sources import Content
from neroli.models.loaded import extra
from neroli.models.torchvision import import_torchvision

MAX_JITTER = 0.5
"""Half the circle of hues."""


@dataclass(frozen=True)
class Augmentation:
    """Flips, colour jitter, inversion and equalisation, in this order, by torchvision.

    Args:
        flip: probability of a horizontal flip, and of a vertical one.
        jitter: largest relative change of brightness, contrast and saturation, and largest shift of
            hue as a share of the colour circle; of grey pictures the first two change.
        invert: probability that a picture becomes its negative.
        equalise: probability that its histogram is equalised.

    Raises:
        ModelError: if any is on and torchvision is missing.

    Source: the training protocol of NERO (Chhetri et al. 2025). It gives one number for colour
    jitter, which is taken for all four properties.
    """

    flip: float
    jitter: float
    invert: float
    equalise: float

    def __post_init__(self) -> None:
        if self:
            _functional()

    def __bool__(self) -> bool:
        """Whether it does anything."""
        return any((self.flip, self.jitter, self.invert, self.equalise))

    def __call__(self, picture: Image.Image, draw: np.random.Generator) -> Image.Image:
        """The picture, of mode L or RGB, changed by what is drawn."""
        change = _functional()
        chances = draw.random(4)  # all are always drawn: one switched off leaves the others alone
        strengths, order = draw.uniform(-1, 1, 4), draw.permutation(4)
        if chances[0] < self.flip:
            picture = change.hflip(picture)
        if chances[1] < self.flip:
            picture = change.vflip(picture)
        if self.jitter:
            colours = (change.adjust_brightness, change.adjust_contrast, change.adjust_saturation)
            for kind in order:
                strength = self.jitter * float(strengths[kind])
                if kind < len(colours):
                    picture = colours[kind](picture, 1 + strength)
                else:
                    picture = change.adjust_hue(picture, strength)
        if chances[2] < self.invert:
            picture = change.invert(picture)
        if chances[3] < self.equalise:
            picture = change.equalize(picture)
        return picture


class AugmentedReader:
    """Reads pictures resized, cropped and augmented, in the order of one epoch.

    What is drawn for a picture depends on the seed, the epoch and its position among ``pictures``,
    not on the order nor on which thread reads it.

    Args:
        pictures: the training pictures.
        order: positions among them.
        preprocessing: how they are resized and cropped.
        augmentation: what is done to them then.
        seed: of all epochs.
        epoch: number of this one.
    """

    def __init__(
        self,
        pictures: Pictures,
        order: Sequence[int],
        preprocessing: Preprocessing,
        augmentation: Augmentation,
        seed: int,
        epoch: int,
    ) -> None:
        self._pictures = pictures
        self._order = order
        self._preprocessing = preprocessing
        self._augmentation = augmentation
        self._key = (seed, epoch)

    @property
    def content(self) -> Content:
        return self._pictures.content

    def __len__(self) -> int:
        return len(self._order)

    def stamp(self, position: int) -> str:
        return self._pictures.reader.stamp(self._pictures.rows[self._order[position]])

    def read(self, position: int) -> tuple[bytes, Image.Image]:
        origin = self._order[position]
        digest, picture = self._pictures.reader.read(self._pictures.rows[origin])
        picture = self._preprocessing.picture(picture)
        return digest, self._augmentation(picture, np.random.default_rng((*self._key, origin)))


def _functional() -> Any:
    """torchvision's transforms of single pictures."""
    import_torchvision()
    return extra("torchvision", "torchvision.transforms.v2.functional", "Augmentation")
