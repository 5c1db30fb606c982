"""Maximum logit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from neroli.activations import Activations
from neroli.detectors.about import Paper
from neroli.detectors.base import Detector


@dataclass(eq=False)
class MaxLogit(Detector):
    """Maximum logit: ``-max z``.

    Source: Hendrycks et al., ICML 2022, arXiv 1911.11132.
    """

    name: ClassVar[str] = "max_logit"
    paper: ClassVar[Paper | None] = Paper(
        "Hendrycks et al.",
        2022,
        "ICML",
        "1911.11132",
        "Scaling Out-of-Distribution Detection for Real-World Settings",
    )
    measures: ClassVar[str] = "the greatest logit, -max z"

    def compute(self, batch: Activations) -> Tensor:
        return -batch.logits.amax(dim=1)
