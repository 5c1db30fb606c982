"""Free energy of the logits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from neroli.activations import Activations
from neroli.detectors.about import Paper, parameter
from neroli.detectors.base import Detector
from neroli.detectors.shares import Shares, energy_shares


@dataclass(eq=False)
class Energy(Detector):
    """Free energy: ``-T log sum_k exp(z_k / T)``.

    Args:
        temperature: T; the paper uses 1.

    Source: Liu et al., NeurIPS 2020, arXiv 2010.03759, eq. 4.
    """

    name: ClassVar[str] = "energy"
    paper: ClassVar[Paper | None] = Paper(
        "Liu et al.", 2020, "NeurIPS", "2010.03759", "Energy-based Out-of-distribution Detection"
    )
    measures: ClassVar[str] = "free energy of the logits, -T log Σ exp(z/T)"
    temperature: float = parameter(1.0, "temperature of the logits", above=0)

    def compute(self, batch: Activations) -> Tensor:
        return -self.temperature * (batch.logits / self.temperature).logsumexp(dim=1)

    def split(self, batch: Activations) -> Shares:
        """Of the energy."""
        assert self.head is not None
        return energy_shares(batch.features, self.head, self.temperature)
