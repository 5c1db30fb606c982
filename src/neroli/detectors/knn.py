"""KNN: distance of the normalised features to the k-th nearest training image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import normalize

from neroli.activations import Activations
from neroli.detectors.about import Paper, parameter
from neroli.detectors.bank import check_size, greatest
from neroli.detectors.base import Detector, learned
from neroli.fitting import Learning
from neroli.head import LinearHead
from neroli.statistics import Reservoir


@dataclass(eq=False)
class KNN(Detector):
    """Squared distance of the normalised features to the k-th nearest training image.

    ``||a/||a|| - b_(k)||^2`` over a bank of normalised training features ``b``. The search is
    exact. Images without any active feature lie at distance 1 from all others. The score is the
    squared distance, as the authors' faiss index returns it; the order is that of the distance.
    Do not score the training images themselves: each finds itself in the bank.

    Args:
        k: which neighbour; the authors take 50 for CIFAR-10 and 1000 for ImageNet. Raises
            NotEnoughImages where the bank is smaller.
        bank_size: largest number of training images kept, a random sample.
        seed: of that sample.

    Source: Sun et al., ICML 2022, arXiv 2204.06507, and the authors' program.
    """

    name: ClassVar[str] = "knn"
    paper: ClassVar[Paper | None] = Paper(
        "Sun et al.",
        2022,
        "ICML",
        "2204.06507",
        "Out-of-Distribution Detection with Deep Nearest Neighbors",
    )
    measures: ClassVar[str] = "distance of the normalised features to the k-th nearest neighbour"

    k: int = parameter(50, "which neighbour", at_least=1)
    bank_size: int = parameter(50_000, "training images kept at most", at_least=1)
    seed: int = parameter(0, "of the training images kept", within=(0, 2**32))

    bank: Tensor = learned()
    """Normalised features of training images, ``[M, D]``."""

    def learn(self, head: LinearHead) -> Learning:
        rows = yield Reservoir("features", self.bank_size, self.seed)
        check_size("KNN", self.k, rows)
        self.bank = normalize(rows, dim=1)

    def compute(self, batch: Activations) -> Tensor:
        query = normalize(batch.features, dim=1)
        # |q - b|^2 = |q|^2 + |b|^2 - 2 q.b: the order comes from the products, the value from the
        # difference, which stays exact near zero.
        offset = -0.5 * torch.linalg.vector_norm(self.bank, dim=1).square()
        row = greatest(query, self.bank, self.k, offset)[1][:, -1]
        return (query - self.bank[row]).square().sum(dim=1)
