"""NAC: whether the states of the neurons were covered by training images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from neroli.activations import Activations
from neroli.detectors.about import Paper, parameter
from neroli.detectors.base import Detector, learned
from neroli.fitting import Learning
from neroli.head import LinearHead
from neroli.histograms import BinCounts


@dataclass(eq=False)
class NAC(Detector):
    """NAC: minus the mean coverage of the states of the penultimate neurons by training images.

    The state of neuron j is ``s_j = sigmoid(alpha a_j g_j)``, where ``g`` is the gradient of the
    cross entropy to the uniform distribution: at the penultimate layer ``g = (p - 1/C) W``, so no
    autograd is needed. Training counts the states of each neuron in M - 1 bins; a bin is covered to
    ``min(count / O, 1)``, and ``S = -mean_j coverage_j(bin of s_j)``. The bins are dense around
    1/2, where a neuron without effect stands, and coarse near 0 and 1.

    Args:
        bins: M, the number of bin edges; one less if it is odd.
        full: O, from how many training images in it a bin is fully covered.
        alpha: steepness of the sigmoid.
        images: the number of training images O is meant for: counts are scaled to it, so that the
            score does not depend on how many there are. None takes the counts as they are.

    The authors count 1,000 training images, balanced over classes; here all are counted. It pays to
    try other O: on features of a CIFAR-10 DenseNet, AUROC 0.75 as it is, 0.81 with O = 50 of 4,000
    images. Published (O, M, alpha) of this layer: CIFAR-10 (50, 50, 100) and CIFAR-100 (50, 50, 50)
    on ResNet-18, ImageNet (10, 50, 3000) on ResNet-50 and, of 50,000 images, (500, 50, 100) on
    ViT-B/16. The authors add three earlier layers, which this one leaves out.

    Source: Liu et al., ICLR 2024, arXiv 2306.02879, and the authors' program, which defines the
    bins.
    """

    name: ClassVar[str] = "nac"
    paper: ClassVar[Paper | None] = Paper(
        "Liu et al.",
        2024,
        "ICLR",
        "2306.02879",
        "Neuron Activation Coverage: Rethinking Out-of-distribution Detection and Generalization",
    )
    measures: ClassVar[str] = "minus the coverage of the neurons' states by training images"

    bins: int = parameter(50, "edges of the bins of a neuron's state", at_least=4)
    full: float = parameter(50.0, "images from which a bin is fully covered", above=0)
    alpha: float = parameter(100.0, "steepness of the sigmoid of the state", above=0)
    images: int | None = parameter(
        1000, "training images that counts are scaled to; None: not scaled", at_least=1
    )

    coverage: Tensor = learned()
    """How far every bin of every neuron is covered, 0 to 1, ``[D, M - 1]``."""
    edges: Tensor = learned()
    """Edges of the bins, ``[M]``."""

    def learn(self, head: LinearHead) -> Learning:
        edges = bin_edges(self.bins)
        counts = yield BinCounts(NeuronStates(head, self.alpha), tuple(edges.tolist()))
        total = counts[0].sum()
        scale = 1.0 if self.images is None else self.images / total
        self.coverage = (counts.to(torch.float64) * scale / self.full).clamp(max=1)
        self.edges = edges

    def compute(self, batch: Activations) -> Tensor:
        assert self.head is not None
        states = NeuronStates(self.head, self.alpha)(batch)
        index = torch.bucketize(states.contiguous(), self.edges, right=True) - 1
        return -self.coverage.T.gather(0, index).mean(dim=1)


@dataclass(frozen=True)
class NeuronStates:
    """NAC's states of the penultimate neurons, ``[N, D]``, in 0..1: a quantity for statistics."""

    head: LinearHead
    alpha: float

    def __call__(self, batch: Activations) -> Tensor:
        head = self.head.like(batch.features)
        gradient = (batch.logits.softmax(dim=1) - 1 / head.num_classes) @ head.weight
        return (self.alpha * batch.features * gradient).sigmoid()


def bin_edges(number: int) -> Tensor:
    """The edges ``[number]`` of the half-open bins; the last bin is always empty.

    With ``l = log_1000(linspace(1, sqrt(1000), number / 2))``: all of l but its last, then one
    minus all of l from its end, the last of these raised by 0.01, and 1.2.
    """
    half = number // 2
    steps = torch.linspace(1, 1000**0.5, half, dtype=torch.float64)
    lower = steps.log() / torch.tensor(1000, dtype=torch.float64).log()
    lower[-1] = 0.5  # exactly: a neuron that is zero has state 1/2, in the bin that starts there
    upper = 1 - lower.flip(0)
    upper[-1] += 0.01
    return torch.cat([lower[:-1], upper, torch.tensor([1.2], dtype=torch.float64)])
