"""Maximum softmax probability."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from neroli.activations import Activations
from neroli.detectors.about import Paper
from neroli.detectors.base import Detector


@dataclass(eq=False)
class MSP(Detector):
    """Maximum softmax probability: ``-max softmax(z)``, in -1..-1/C.

    In float32 the probability of the most confident images rounds to one, so these tie.

    Source: Hendrycks and Gimpel, ICLR 2017, arXiv 1610.02136.
    """

    name: ClassVar[str] = "msp"
    paper: ClassVar[Paper | None] = Paper(
        "Hendrycks and Gimpel",
        2017,
        "ICLR",
        "1610.02136",
        "A Baseline for Detecting Misclassified and Out-of-Distribution Examples",
    )
    measures: ClassVar[str] = "one minus confidence, -max p"

    def compute(self, batch: Activations) -> Tensor:
        return -batch.logits.softmax(dim=1).amax(dim=1)
