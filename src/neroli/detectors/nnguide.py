"""NNGuide: the energy, guided by how near confident training images are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import normalize

from neroli.activations import Activations
from neroli.assumptions import Assumption
from neroli.detectors.about import Paper, parameter
from neroli.detectors.bank import check_size, greatest
from neroli.detectors.base import Detector, learned
from neroli.fitting import Learning
from neroli.head import LinearHead
from neroli.moments import ClassMoments
from neroli.statistics import Reservoir

_SHARE, _FEWEST, _MOST = 0.01, 1_000, 50_000


@dataclass(eq=False)
class NNGuide(Detector):
    """Energy times the mean similarity to the k most similar training images.

    ``-LSE(z) mean_{i of top k} <a, a_i LSE(z_i)>`` over a bank of training images i, each weighted
    by its own energy. Meant for logits with a positive log-sum-exp: a negative one turns the order
    of that image around.

    Args:
        k: number of most similar images. Raises NotEnoughImages where the bank is smaller.
        bank_size: number of training images kept, a random sample (OpenOOD's first 1 % of the
            loader is none); None takes the authors' 1 %, but 1,000 at least and 50,000 at most.
        normalise: features to unit length, as OpenOOD does (with k = 100); the authors' detector
            does not.
        seed: of the sample.

    Source: Park et al., ICCV 2023, arXiv 2309.14888, and the authors' program.
    """

    name: ClassVar[str] = "nnguide"
    paper: ClassVar[Paper | None] = Paper(
        "Park et al.",
        2023,
        "ICCV",
        "2309.14888",
        "Nearest Neighbor Guidance for Out-of-Distribution Detection",
    )
    measures: ClassVar[str] = "energy times the similarity to confident training images"
    assumes: ClassVar[tuple[Assumption, ...]] = ("positive energy",)

    k: int = parameter(10, "number of most similar training images", at_least=1)
    bank_size: int | None = parameter(
        None, "training images kept; None: 1 % of them, 1,000 to 50,000", at_least=1
    )
    normalise: bool = parameter(False, "features to unit length")
    seed: int = parameter(0, "of the training images kept", within=(0, 2**32))

    bank: Tensor = learned()
    """Features of training images times their energy, ``[M, D]``."""

    def learn(self, head: LinearHead) -> Learning:
        size = self.bank_size
        if size is None:
            classes = yield ClassMoments("logits", "predicted", allow_empty=True)
            count = float(classes.count.sum())
            size = min(_MOST, max(_FEWEST, self.k, round(_SHARE * count)))
        rows = yield Reservoir("features", size, self.seed)
        check_size("NNGuide", self.k, rows)
        # in the network's own precision, as its logits are: float64 would take twice as long, and
        # in half precision they overflow
        few = rows.to(torch.promote_types(head.weight.dtype, torch.float32))
        energy = head.like(few)(few).logsumexp(dim=1, keepdim=True).to(rows)
        self.bank = energy * (normalize(rows, dim=1) if self.normalise else rows)

    def compute(self, batch: Activations) -> Tensor:
        query = normalize(batch.features, dim=1) if self.normalise else batch.features
        guidance = greatest(query, self.bank, self.k)[0].mean(dim=1)
        return -batch.logits.logsumexp(dim=1) * guidance
