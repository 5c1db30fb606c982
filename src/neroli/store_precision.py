"""In what precision a store keeps its columns: as computed, or in half the space."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from neroli.errors import InvalidInput

StoreDtype = Literal["float16"]
"""Instead of the precision in which the network computed; read back as float32."""

_MAX = torch.finfo(torch.float16).max


def check_dtype(dtype: str | None) -> None:
    """Raise InvalidInput unless a store can be kept in this precision."""
    if dtype not in (None, "float16"):
        raise InvalidInput(
            "A store is kept as computed (dtype=None, no --store-dtype) or in 'float16' "
            f"(--store-dtype float16), got {dtype!r}."
        )


def check_range(columns: Mapping[str, Tensor], ids: Sequence[str] | None) -> None:
    """Raise InvalidInput, naming the first column and image, if a value is too large for float16.

    NaN and infinity pass: they stay what they are, and are said where they are used.
    """
    for name, values in columns.items():
        if not values.is_floating_point() or not values.numel():
            continue
        low, high = values.aminmax()
        if low >= -_MAX and high <= _MAX:
            continue
        outside = values.isfinite() & (values.abs() > _MAX)
        if outside.any():
            where = outside.nonzero()[0]
            row, value = int(where[0]), float(values[tuple(where)])
            image = f"row {row}" if ids is None else f"image {ids[row]!r}"
            raise InvalidInput(
                f"{name!r} of {image} holds {value:.6g}, and float16 ends at {_MAX:.0f}: keep the "
                "activations as computed, without dtype='float16' (--store-dtype)."
            )


def narrowed(columns: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The columns with their floating-point values in float16."""
    return {
        name: values.to(torch.float16) if values.is_floating_point() else values
        for name, values in columns.items()
    }
