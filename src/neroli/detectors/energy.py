"""Free energy of the logits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from neroli.activations import Activations
from neroli.detectors.base import Detector
from neroli.errors import InvalidInput


@dataclass(eq=False)
class Energy(Detector):
    """Free energy: ``-T log sum_k exp(z_k / T)``.

    Args:
        temperature: T, positive; the paper uses 1.

    Source: Liu et al., NeurIPS 2020, arXiv 2010.03759, eq. 4.
    """

    name: ClassVar[str] = "energy"
    temperature: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.temperature < float("inf"):
            raise InvalidInput(f"temperature must be positive, got {self.temperature}.")

    def compute(self, batch: Activations) -> Tensor:
        return -self.temperature * (batch.logits / self.temperature).logsumexp(dim=1)
