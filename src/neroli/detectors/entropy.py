"""Entropy of the predicted probabilities."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from neroli.activations import Activations
from neroli.detectors.base import Detector


@dataclass(eq=False)
class Entropy(Detector):
    """Entropy of ``p = softmax(z)`` in nats: ``-sum_k p_k log p_k``, in 0..log C.

    Source: the usual definition; a baseline in NERO's comparison (arXiv 2506.15404), which clips
    p at 1e-6 where this takes ``0 log 0`` as 0.
    """

    name: ClassVar[str] = "entropy"
    measures: ClassVar[str] = "entropy of the softmax, -Σ p log p"

    def compute(self, batch: Activations) -> Tensor:
        log_p = batch.logits.log_softmax(dim=1)  # finite, so that 0 log 0 is 0
        return -(log_p.exp() * log_p).sum(dim=1)
