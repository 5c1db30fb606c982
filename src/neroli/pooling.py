"""Pooling: how what a layer returned becomes one row an image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from neroli.errors import InvalidInput

Axis = Literal["first", "last"]
"""Where the channels of a map are."""


@dataclass(frozen=True)
class GramSums:
    """Row sums of the Gram matrices of a map's powers, a way of pooling, ``[N, powers * C]``.

    ``sign(s) |s|^(1/p)`` with ``s_j = sum_k sum_x F_jx^p F_kx^p`` over channels k and places x, for
    p = 1 to ``powers``. The sum over channels is taken first, so no C x C matrix is made, and of
    values divided by the image's largest, so that no power overflows.
    """

    powers: int

    def __str__(self) -> str:
        return f"gram{self.powers}"

    def __call__(self, values: Tensor) -> Tensor:
        """Of values ``[N, places, C]``."""
        largest = values.abs().amax(dim=(1, 2), keepdim=True)
        values = values / torch.where(largest == 0, 1, largest)
        power, sums = torch.ones_like(values), []
        for p in range(1, self.powers + 1):
            power = power * values
            total = (power.sum(dim=2, keepdim=True).transpose(1, 2) @ power)[:, 0]
            sums.append(total.sign() * total.abs().pow(1 / p))
        return torch.cat(sums, dim=1) * largest[:, 0].square()


Pooling = Literal["mean", "max", "sum"] | GramSums
"""How the values of a channel at all places become one number, or one for each power."""


def pooled(
    values: Tensor, pooling: Pooling, channels: Axis | None = None, square: bool = True
) -> Tensor:
    """What a layer returned, pooled over all but images and channels.

    Args:
        values: ``[N, C]``, tokens ``[N, T, C]`` or a map ``[N, C, H, W]`` or ``[N, H, W, C]``.
        pooling: how.
        channels: "first" or "last"; None: last of tokens, found out of maps.
        square: whether the images were, see ``channels_of``.

    Returns:
        ``[N, C]`` float32, or float64 if they are; ``[N, powers * C]`` of Gram matrices.

    Raises:
        InvalidInput: if it has no channels, or a map does not tell where they are.
    """
    if values.ndim < 2:
        raise InvalidInput(f"A layer that returns {list(values.shape)} cannot be tapped.")
    values = values.float() if values.dtype in (torch.float16, torch.bfloat16) else values
    if values.ndim == 2:
        flat = values[:, None]
    elif channels_of(values, channels, square) == "last":
        flat = values.flatten(1, -2)
    else:
        flat = values.flatten(2).transpose(1, 2)
    if isinstance(pooling, GramSums):
        return pooling(flat)
    return flat.amax(1) if pooling == "max" else getattr(flat, pooling)(1)


def channels_of(values: Tensor, stated: Axis | None = None, square: bool = True) -> Axis:
    """Where the channels of what a layer returned are.

    Args:
        values: tokens ``[N, T, C]``, a map, or anything whose channels are its second axis.
        stated: what the user says; None finds out.
        square: whether the images were: the maps of others may be square by chance.

    Raises:
        InvalidInput: if a map does not tell.
    """
    if stated is not None:
        return stated
    shape = values.shape
    if values.ndim == 4:
        if square and shape[2] == shape[3]:
            return "first"
        if square and shape[1] == shape[2]:
            return "last"
        raise InvalidInput(
            f"A map of shape {list(shape)} does not tell where its channels are: name the layer "
            "with '@first' or '@last'."
        )
    return "last" if values.ndim == 3 else "first"
