"""GradNorm: the norm of the head's gradient, in closed form."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from neroli.activations import Activations
from neroli.detectors.about import Paper, parameter
from neroli.detectors.base import Detector


@dataclass(eq=False)
class GradNorm(Detector):
    """L1 norm of a gradient by the head's weights: ``-(C / T) ||a||_1 ||p - 1/C||_1``.

    The gradient is that of ``sum_c -log p_c`` with ``p = softmax(z / T)``: towards the uniform
    distribution. For a linear head it is the outer product of ``(C p - 1) / T`` and the features,
    so no backward pass is needed. The bias does not count, as in the authors' program.

    Args:
        temperature: T; the paper uses 1.

    Source: Huang et al., NeurIPS 2021, arXiv 2110.00218, and the authors' program.
    """

    name: ClassVar[str] = "grad_norm"
    paper: ClassVar[Paper | None] = Paper(
        "Huang et al.",
        2021,
        "NeurIPS",
        "2110.00218",
        "On the Importance of Gradients for Detecting Distributional Shifts in the Wild",
    )
    measures: ClassVar[str] = "minus the gradient norm towards the uniform distribution"
    temperature: float = parameter(1.0, "temperature of the logits", above=0)

    def compute(self, batch: Activations) -> Tensor:
        classes = batch.logits.shape[1]
        p = (batch.logits / self.temperature).softmax(dim=1)
        to_uniform = (p - 1 / classes).abs().sum(dim=1)
        return -(classes / self.temperature) * batch.features.abs().sum(dim=1) * to_uniform
