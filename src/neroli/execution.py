"""How a network is run over images: its precision, its memory format, compiled or not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from neroli.errors import InvalidInput
from neroli.validation import check_types

Precision = Literal["float32", "bfloat16", "float16"]


@dataclass(frozen=True)
class Execution:
    """How the network computes features.

    Whatever it is, features and logits are float32 (float64 of a network in float64), the head is
    found and images are measured and explained without any of it, and the network stays as it is.

    Args:
        precision: "float32" runs the network as it is; the others run its convolutions and matrix
            products in half precision (``torch.autocast``), its weights staying as they are. The
            head is then computed in float32 from the features, so that weight f + bias = logits
            holds as exactly as otherwise.
        channels_last: images ``[N, channels, H, W]`` are laid out with channels last in memory,
            which convolutions follow.
        compile: run what ``torch.compile`` makes of the network; takes a while on the first images.

    Raises:
        InvalidInput: if an argument is none of these.
    """

    precision: Precision = "float32"
    channels_last: bool = False
    compile: bool = False

    def __post_init__(self) -> None:
        check_types(self)

    def __str__(self) -> str:
        """As people read it: ``"bfloat16, channels last, compiled"``."""
        options = ["channels last"] * self.channels_last + ["compiled"] * self.compile
        return ", ".join([self.precision, *options])

    @property
    def is_half(self) -> bool:
        """Whether the network runs in half precision."""
        return self.precision != "float32"

    def laid_out(self, images: Tensor) -> Tensor:
        """Images in the memory format that the network is given them in."""
        if self.channels_last and images.ndim == 4:
            return images.contiguous(memory_format=torch.channels_last)
        return images

    @contextmanager
    def applied(self, device: torch.device) -> Iterator[None]:
        """Run what is inside in this precision.

        Raises:
            InvalidInput: if the device cannot.
        """
        if not self.is_half:
            yield
            return
        try:
            half = torch.autocast(device.type, getattr(torch, self.precision))
        except RuntimeError as error:
            raise InvalidInput(
                f"Networks cannot be run in {self.precision} on {device.type}: {error}"
            ) from None
        with half:
            yield

    def change_from(self, other: Execution) -> str | None:
        """What may differ from scores computed in another way; None if rounding at most."""
        if self.precision == other.precision:
            return None
        return (
            f"The guard was fitted and calibrated in {other.precision} and runs in "
            f"{self.precision}: scores shift, so that images near the threshold may be judged "
            "otherwise and the promised false-alarm rate holds only about (docs/performance.md)."
        )


AS_IT_IS = Execution()
"""The network as it is: eager, in its own precision."""
