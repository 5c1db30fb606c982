"""Pictures of heat maps: colours, overlays, and the network's input made visible again."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor
from torch.nn import functional as F

from neroli.data.preprocessing import Preprocessing
from neroli.errors import InvalidInput

Picture = np.ndarray[Any, np.dtype[np.uint8]]

BLUE_TO_RED = (
    (5, 48, 97),
    (33, 102, 172),
    (67, 147, 195),
    (146, 197, 222),
    (209, 229, 240),
    (247, 247, 247),
    (253, 219, 199),
    (244, 165, 130),
    (214, 96, 77),
    (178, 24, 43),
    (103, 0, 31),
)
"""ColorBrewer's RdBu, turned round: told apart with every kind of colour vision deficiency."""


def colours_of(maps: Tensor, *, quantile: float = 0.995, smoothing: float = 0.0) -> Picture:
    """Maps ``[N, H, W]`` in colour, ``[N, H, W, 3]`` uint8; see ``Heatmap.colours``."""
    return np.asarray(_coloured(_scaled(maps, quantile, smoothing)).round(), dtype=np.uint8)


def overlaid(
    maps: Tensor,
    pictures: np.ndarray[Any, Any] | Tensor,
    *,
    strength: float = 0.9,
    quantile: float = 0.995,
    smoothing: float = 0.0,
    interpolation: Literal["nearest", "bilinear"] = "bilinear",
) -> Picture:
    """Maps ``[N, H, W]`` over pictures ``[N, h, w, 3]`` uint8; see ``Heatmap.overlay``."""
    pictures = np.asarray(pictures.cpu() if isinstance(pictures, Tensor) else pictures)
    if pictures.dtype != np.uint8 or pictures.ndim != 4 or pictures.shape[3] != 3:
        raise InvalidInput(
            f"pictures must be [N, h, w, 3] uint8, got {pictures.dtype} of shape "
            f"{list(pictures.shape)}."
        )
    if len(pictures) != len(maps):
        raise InvalidInput(f"There are {len(pictures)} pictures for {len(maps)} heat maps.")
    if not 0 <= strength <= 1:
        raise InvalidInput(f"strength must be 0 to 1, got {strength}.")
    if interpolation not in ("nearest", "bilinear"):
        raise InvalidInput(f'interpolation must be "nearest" or "bilinear", got {interpolation!r}.')
    values = torch.from_numpy(_scaled(maps, quantile, smoothing))[:, None]
    size = (pictures.shape[1], pictures.shape[2])
    if interpolation == "nearest":
        values = F.interpolate(values, size, mode="nearest-exact")
    else:
        values = F.interpolate(values, size, mode="bilinear", antialias=True)
    resized = values[:, 0].numpy().clip(-1, 1)
    grey = (pictures @ np.array([0.299, 0.587, 0.114]))[..., None]  # luma of ITU-R BT.601
    cover = strength * np.abs(resized)[..., None]
    mixed = (1 - cover) * grey + cover * _coloured(resized)
    return np.asarray(mixed.round(), dtype=np.uint8)


def pictures_of(images: Tensor, preprocessing: Preprocessing | None) -> Picture:
    """What the network was given, as pictures ``[N, H, W, 3]`` uint8.

    Args:
        images: ``[N, channels, H, W]``, preprocessed.
        preprocessing: the classifier's; its mean and standard deviation are taken back. None if it
            is unknown: the values of each image are then stretched to 0..255, and its brightness
            and contrast say nothing. So they are with another number of channels than three and
            one, of which the mean is shown in grey.

    Raises:
        InvalidInput: if the images are no such tensor, or not finite.
    """
    if not isinstance(images, Tensor) or images.ndim != 4 or not images.is_floating_point():
        got = list(images.shape) if isinstance(images, Tensor) else type(images).__name__
        raise InvalidInput(
            f"images must be a floating-point tensor [N, channels, H, W], got {got}."
        )
    if not torch.isfinite(images).all():
        raise InvalidInput("images must be finite to be shown.")
    values = images.detach().cpu().double()
    channels = values.shape[1]
    if preprocessing is not None and len(preprocessing.mean) in (1, channels):
        mean, std = (
            values.new_tensor(numbers).view(-1, 1, 1)
            for numbers in (preprocessing.mean, preprocessing.std)
        )
        values = values * std + mean
    if channels not in (1, 3):
        values = values.mean(1, keepdim=True)
    if preprocessing is None or channels not in (1, 3):
        lowest, highest = values.amin((1, 2, 3), True), values.amax((1, 2, 3), True)
        span = highest - lowest
        values = torch.where(span > 0, (values - lowest) / span.masked_fill(span == 0, 1), 0.5)
    pixels = (values * 255).round().clamp(0, 255).to(torch.uint8)
    return pixels.expand(-1, 3, -1, -1).permute(0, 2, 3, 1).contiguous().numpy()


def _scaled(maps: Tensor, quantile: float, smoothing: float) -> np.ndarray[Any, Any]:
    """The maps as float32 in -1..1, each divided by that quantile of its absolute values."""
    if not 0 < quantile <= 1:
        raise InvalidInput(f"quantile must be above 0 and at most 1, got {quantile}.")
    if not 0 <= smoothing < np.inf:
        raise InvalidInput(f"smoothing must be zero or a number of pixels, got {smoothing}.")
    values = maps.detach().cpu().double().numpy()
    if smoothing:
        values = gaussian_filter(values, (0, smoothing, smoothing), mode="nearest")
    sizes = np.abs(values).reshape(len(values), -1)
    largest = sizes.max(axis=1)
    scale = np.quantile(sizes, quantile, axis=1)
    scale = np.where(scale > 0, scale, np.where(largest > 0, largest, 1))  # few pixels, or none
    return (values / scale[:, None, None]).clip(-1, 1).astype(np.float32)


def _coloured(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """RGB in 0..255 of values in -1..1."""
    stops = np.linspace(-1, 1, len(BLUE_TO_RED))
    return np.stack(
        [np.interp(values, stops, channel) for channel in zip(*BLUE_TO_RED, strict=True)], axis=-1
    )
