"""Norm of the features."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from neroli.activations import Activations
from neroli.detectors.about import Paper
from neroli.detectors.base import Detector


@dataclass(eq=False)
class FeatureNorm(Detector):
    """Euclidean norm of the features: ``-||a||_2``; unknown images excite a network less.

    Source: common knowledge; the score of Shin and Chung (TMLR 2024, arXiv 2408.10676) as in their
    program, which they use on a network trained to enlarge it. This one takes any network.
    """

    name: ClassVar[str] = "feature_norm"
    paper: ClassVar[Paper | None] = Paper(
        "Shin and Chung",
        2024,
        "TMLR",
        "2408.10676",
        "Representation Norm Amplification for Out-of-Distribution Detection in Long-Tail Learning",
    )
    measures: ClassVar[str] = "minus the length of the feature vector, -‖a‖"

    def compute(self, batch: Activations) -> Tensor:
        norm: Tensor = torch.linalg.vector_norm(batch.features, dim=1)
        return -norm
