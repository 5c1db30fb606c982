"""What a guard says of images."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from neroli.data.sources import Failure


@dataclass(frozen=True, eq=False)
class Verdicts:
    """What is said of N images; all tensors are on the CPU.

    Attributes:
        score: ``[N]``, higher = more OOD.
        p_value: ``[N]`` float64 conformal p-values in (0, 1]; small = OOD.
        is_ood: ``[N]`` bool, score above the threshold.
        predicted_class: ``[N]`` int64.
    """

    score: Tensor
    p_value: Tensor
    is_ood: Tensor
    predicted_class: Tensor

    def __len__(self) -> int:
        return len(self.score)

    @classmethod
    def none(cls) -> Verdicts:
        """Verdicts on no image."""
        return cls(
            torch.empty(0),
            torch.empty(0, dtype=torch.float64),
            torch.empty(0, dtype=torch.bool),
            torch.empty(0, dtype=torch.int64),
        )


@dataclass(frozen=True, eq=False)
class GuardedBatch:
    """Some of many images: verdicts on the readable ones, and the others with the reason.

    Attributes:
        ids: hashes of the contents of the N readable images.
        names: what their source calls them; their positions where it has no names, and None where
            they come from a store, which keeps none.
        verdicts: of these N images.
        failures: images that could not be read.
        end: position in the source behind this batch.
    """

    ids: tuple[str, ...]
    names: tuple[str | None, ...]
    verdicts: Verdicts
    failures: tuple[Failure, ...]
    end: int
