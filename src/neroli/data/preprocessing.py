"""From a picture to the tensor a network takes: resize, crop, normalise."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from neroli.errors import InvalidInput, UnreadableImage
from neroli.validation import check_types

MAX_SIDE = 16_384
"""Largest side an image can be resized or cropped to, in pixels."""

Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos"]


@dataclass(frozen=True)
class Preprocessing:
    """How images become the network's input.

    Args:
        mean: per channel, of values in 0..1; one channel for grey networks, three for colour.
        std: per channel, in the same units.
        resize: an integer brings the shorter side to that many pixels, a pair (height, width) the
            whole image; None leaves the size.
        crop: the centre is cut out at this size, an integer or (height, width), after resizing;
            None keeps all.
        interpolation: of the resize, with antialiasing, as Pillow does it.

    Raises:
        InvalidInput: if a value is out of range.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    resize: int | tuple[int, int] | None = None
    crop: int | tuple[int, int] | None = None
    interpolation: Interpolation = "bilinear"

    def __post_init__(self) -> None:
        check_types(self)
        for name in ("resize", "crop"):
            value = getattr(self, name)
            sizes = value if isinstance(value, tuple) else (value,)
            if value is not None and not all(1 <= size <= MAX_SIDE for size in sizes):
                raise InvalidInput(f"{name} must be 1 to {MAX_SIDE} pixels, got {value}.")
        if not all(math.isfinite(value) for value in (*self.mean, *self.std)):
            raise InvalidInput(f"mean and std must be finite, got {self.mean} and {self.std}.")
        if len(self.mean) not in (1, 3) or len(self.std) != len(self.mean):
            raise InvalidInput(
                "mean and std must both have one value (grey) or three (colour), "
                f"got {len(self.mean)} and {len(self.std)}."
            )
        if min(self.std) <= 0:
            raise InvalidInput(f"std must be positive, got {self.std}.")

    def __str__(self) -> str:
        steps = [
            f"{step} {'x'.join(map(str, size)) if isinstance(size, tuple) else size}"
            for step, size in (("resize", self.resize), ("crop", self.crop))
            if size is not None
        ]
        values = [" ".join(f"{v:g}" for v in numbers) for numbers in (self.mean, self.std)]
        return ", ".join([*steps, f"mean {values[0]}", f"std {values[1]}", self.interpolation])

    @property
    def mode(self) -> str:
        """Pillow's name for the colour mode the network takes."""
        return "L" if len(self.mean) == 1 else "RGB"

    def __call__(self, image: Image.Image) -> Tensor:
        """The network's input ``[channels, height, width]`` float32 of an RGB or grey image.

        Raises:
            UnreadableImage: as ``pixels``.
        """
        return self.normalised(self.pixels(image)[None])[0]

    def pixels(self, image: Image.Image) -> Tensor:
        """The resized and cropped image, ``[channels, height, width]`` uint8.

        Raises:
            UnreadableImage: as ``picture``.
        """
        pixels = torch.from_numpy(np.array(self.picture(image)))
        return pixels[None] if pixels.ndim == 2 else pixels.permute(2, 0, 1)

    def picture(self, image: Image.Image) -> Image.Image:
        """The resized and cropped image, still a picture.

        Raises:
            UnreadableImage: if the image is smaller than the crop, or a thread of pixels.
        """
        image = image.convert(self.mode)
        if self.resize is not None:
            image = image.resize(self._resized(image), Image.Resampling[self.interpolation.upper()])
        return image if self.crop is None else self._cropped(image)

    def normalised(self, pixels: Tensor) -> Tensor:
        """The network's input ``[N, channels, height, width]`` float32 of uint8 pixels alike."""
        mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (self.mean, self.std))
        values = pixels.to(torch.float32, memory_format=torch.contiguous_format)
        return values.div_(255).sub_(mean).div_(std)

    def _resized(self, image: Image.Image) -> tuple[int, int]:
        """(width, height) after resizing."""
        if isinstance(self.resize, tuple):
            return self.resize[1], self.resize[0]
        assert self.resize is not None
        scale = self.resize / min(image.size)
        width, height = (max(self.resize, int(side * scale)) for side in image.size)
        if max(width, height) > 100 * self.resize:
            raise UnreadableImage(
                f"is {image.width}x{image.height} pixels, too narrow to bring its shorter side to "
                f"{self.resize}; crop the file or resize to height x width"
            )
        return width, height

    def _cropped(self, image: Image.Image) -> Image.Image:
        height, width = self.crop if isinstance(self.crop, tuple) else (self.crop, self.crop)
        assert height is not None and width is not None
        if image.width < width or image.height < height:
            raise UnreadableImage(
                f"is {image.width}x{image.height} pixels, smaller than the crop of "
                f"{width}x{height}; resize first"
            )
        left = round((image.width - width) / 2)  # rounds as torchvision does
        top = round((image.height - height) / 2)
        return image.crop((left, top, left + width, top + height))
