"""SHE: how like the features are to the pattern stored for the predicted class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from neroli.activations import Activations
from neroli.assumptions import Assumption
from neroli.detectors.about import Paper, parameter
from neroli.detectors.base import Detector, learned
from neroli.fitting import Learning
from neroli.head import LinearHead
from neroli.moments import ClassMeans, Counting
from neroli.statistics import Mean


@dataclass(eq=False)
class SHE(Detector):
    """Minus the inner product of the features and the mean of their predicted class.

    ``-<a, mu_c>`` with c the predicted class and ``mu_c`` the mean of the training images of that
    class that are classified correctly. Neither is normalised. Where a class has no such image, the
    mean of all training images stands in.

    Args:
        labels: class means over images classified "correct"ly, or all of the "true" or the
            "predicted" class.

    Source: Zhang et al., ICLR 2023, the simplified energy SHE, and the authors' program.
    """

    name: ClassVar[str] = "she"
    paper: ClassVar[Paper | None] = Paper(
        "Zhang et al.",
        2023,
        "ICLR",
        "",
        "Out-of-Distribution Detection based on In-Distribution Data Patterns Memorization with "
        "Modern Hopfield Energy",
    )
    measures: ClassVar[str] = "inner product of the features and the predicted class's mean"
    assumes: ClassVar[tuple[Assumption, ...]] = ("images of every class",)

    labels: Counting = parameter(
        "correct", "class means over the correctly classified, or the true or predicted class"
    )

    means: Tensor = learned()
    """Mean features of every class, ``[C, D]``."""

    def learn(self, head: LinearHead) -> Learning:
        classes, everything = yield (
            ClassMeans("features", self.labels),
            Mean("features"),
        )
        self.means = torch.where(classes.count[:, None] > 0, classes.mean, everything)

    def compute(self, batch: Activations) -> Tensor:
        return -(batch.features * self.means[batch.predictions]).sum(dim=1)
