"""Views: changed pictures that show the same, and what the network computes for them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from neroli.activations import Activations
from neroli.errors import InvalidInput
from neroli.head import LinearHead
from neroli.probes import Network
from neroli.taps import PREPOOL, Requirements

Shift = Literal["left", "right", "up", "down"]
Change = Literal["mirror", "flip", Shift, "rotate"]

_TAKES_NONE = ("mirror", "flip")
_FORMS = (
    'write "mirror" (left and right exchanged), "flip" (upside down), "left:4", "right:4", "up:4" '
    'or "down:4" (pixels of the network\'s input), or "rotate:5" (degrees counter-clockwise)'
)


@dataclass(frozen=True)
class View:
    """A changed picture, written ``"mirror"``, ``"flip"``, ``"left:4"`` or ``"rotate:5"``.

    Where a shift or a rotation uncovers something, the pixel at the border is repeated. Rotations
    are bilinear, those by quarters exact.

    Args:
        change: what is done to the picture.
        amount: whole pixels of a shift, at least 1; degrees of a rotation, counter-clockwise.

    Raises:
        InvalidInput: if the change is unknown, or the amount does not suit it.
    """

    change: Change
    amount: float = 0

    def __post_init__(self) -> None:
        whole = self.amount == int(self.amount) if math.isfinite(self.amount) else False
        suits = {
            "rotate": math.isfinite(self.amount) and self.amount % 360 != 0,
            **dict.fromkeys(_TAKES_NONE, self.amount == 0),
            **dict.fromkeys(get_args(Shift), whole and self.amount >= 1),
        }
        if not suits.get(self.change, False):
            raise InvalidInput(f"{str(self)!r} is no view of a picture: {_FORMS}.")

    @classmethod
    def parse(cls, text: str) -> View:
        """The view that ``str()`` gives.

        Raises:
            InvalidInput: if it is none.
        """
        change, colon, amount = text.partition(":")
        try:
            if bool(colon) == (change in _TAKES_NONE):
                raise ValueError
            return cls(change, float(amount or 0))  # type: ignore[arg-type]  # which is checked
        except (ValueError, InvalidInput):
            raise InvalidInput(f"{text!r} is no view of a picture: {_FORMS}.") from None

    def __str__(self) -> str:
        if self.change in _TAKES_NONE and not self.amount:
            return self.change
        amount = float(self.amount)
        return f"{self.change}:{int(amount) if amount.is_integer() else amount}"

    def __call__(self, images: Tensor) -> Tensor:
        """The view of every picture.

        Args:
            images: ``[N, channels, H, W]``.

        Returns:
            pictures of the same shape, dtype and device.

        Raises:
            InvalidInput: if they are no pictures, a shift moves them out of sight, or a quarter
                rotation would change their shape.
        """
        if images.ndim != 4:
            raise InvalidInput(
                f"The view {str(self)!r} is of pictures [N, channels, height, width], and the "
                f"network's input has the shape {list(images.shape)}: score without views."
            )
        if self.change == "mirror":
            return images.flip(-1)
        if self.change == "flip":
            return images.flip(-2)
        if self.change == "rotate":
            return self._rotated(images)
        return self._shifted(images)

    def _shifted(self, images: Tensor) -> Tensor:
        dim = -1 if self.change in ("left", "right") else -2
        size, pixels = images.shape[dim], int(self.amount)
        if pixels >= size:
            raise InvalidInput(
                f"The view {str(self)!r} moves the picture out of sight, which is {size} pixels "
                f"{'wide' if dim == -1 else 'high'}: shift it by fewer."
            )
        step = pixels if self.change in ("left", "up") else -pixels
        source = torch.arange(size, device=images.device) + step
        return images.index_select(dim, source.clamp(0, size - 1))

    def _rotated(self, images: Tensor) -> Tensor:
        height, width = images.shape[-2:]
        quarters, degrees = divmod(self.amount % 360, 90)
        if degrees == 0:
            if quarters % 2 and height != width:
                raise InvalidInput(
                    f"The view {str(self)!r} of a picture of {height} x {width} pixels has another "
                    "shape: rotate by 180, or by no quarter."
                )
            return images.rot90(int(quarters), (-2, -1))
        exact = images if images.dtype == torch.float64 else images.float()
        angle = math.radians(self.amount)
        # from the centre, in pixels; y points down
        x = torch.arange(width, device=images.device, dtype=exact.dtype) - (width - 1) / 2
        y = torch.arange(height, device=images.device, dtype=exact.dtype)[:, None]
        y = y - (height - 1) / 2
        across = math.cos(angle) * x - math.sin(angle) * y
        down = math.sin(angle) * x + math.cos(angle) * y
        grid = torch.stack([across * (2 / width), down * (2 / height)], dim=-1)
        turned = F.grid_sample(
            exact,
            grid.expand(len(images), -1, -1, -1),
            mode="bilinear",
            padding_mode="border",
            align_corners=False,
        )
        return (turned if images.is_floating_point() else turned.round()).to(images.dtype)


@dataclass(frozen=True)
class ViewProbe:
    """What the network computes for a view of the images, but the logits: one more run of it.

    Logits are left to the head, so that these of classes left out can be left out here too.

    Args:
        view: the view.
        requires: what is needed of the view beyond its features.
    """

    view: View
    requires: Requirements

    def names(self) -> tuple[str, ...]:
        return tuple(map(self._name, ("features", *self._taps(), *self._extras())))

    def layers(self) -> tuple[str, ...]:
        return tuple(map(str, self.requires.sites()))

    def __call__(self, network: Network, images: Tensor) -> dict[str, Tensor]:
        seen = network.activations(self.view(images), self.requires)
        measured = {"features": seen.features, **seen.taps, **seen.extras}
        return {self._name(name): value for name, value in measured.items()}

    def seen(self, batch: Activations, head: LinearHead) -> Activations:
        """The view's activations, of images that were probed, with the head's logits."""

        features = batch.extras[self._name("features")].to(batch.features)
        return Activations(
            features,
            head(features),
            ids=batch.ids,
            taps={name: batch.extras[self._name(name)] for name in self._taps()},
            extras={name: batch.extras[self._name(name)] for name in self._extras()},
        )

    def _taps(self) -> list[str]:
        return [str(tap) for tap in self.requires.taps]

    def _extras(self) -> list[str]:
        measured = [name for probe in self.requires.probes for name in probe.names()]
        return [*(PREPOOL if self.requires.prepool else ()), *measured]

    def _name(self, name: str) -> str:
        return f"{self.view}/{name}"


def measures_more(requires: Requirements) -> bool:
    """Whether images, or views of them, are measured in other ways than by running the network."""
    return any(
        not isinstance(probe, ViewProbe) or measures_more(probe.requires)
        for probe in requires.probes
    )
