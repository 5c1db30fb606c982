"""NAC: whether the states of the neurons were covered by training images, at one or more layers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from neroli.activations import Activations
from neroli.detectors.about import Paper, parameter
from neroli.detectors.base import Detector, learned
from neroli.errors import InvalidInput
from neroli.fitting import Learning
from neroli.head import LinearHead
from neroli.histograms import BinCounts
from neroli.pooling import pooled
from neroli.probes import Network
from neroli.taps import Requirements, Site


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
    ViT-B/16. The authors add three earlier layers: see ``NACUE``.

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

    bins: int = parameter(50, "edges of the bins of a neuron's state", within=(4, 1e6))
    full: float = parameter(50.0, "images from which a bin is fully covered", above=0)
    alpha: float = parameter(100.0, "steepness of the sigmoid of the state", between=(0, 1e30))
    images: int | None = parameter(
        1000, "training images that counts are scaled to; None: not scaled", within=(1, 1e12)
    )

    coverage: Tensor = learned()
    """How far every bin of every neuron is covered, 0 to 1, ``[D, M - 1]``."""
    edges: Tensor = learned()
    """Edges of the bins, ``[M]``."""

    def learn(self, head: LinearHead) -> Learning:
        edges = bin_edges(self.bins)
        counts = yield BinCounts(NeuronStates(head, self.alpha), tuple(edges.tolist()))
        self.coverage = _covered_share(counts, self.full, self.images)
        self.edges = edges

    def compute(self, batch: Activations) -> Tensor:
        assert self.head is not None
        states = NeuronStates(self.head, self.alpha)(batch)
        return -_mean_coverage(self.coverage, self.edges, states)


@dataclass(frozen=True)
class NeuronStates:
    """NAC's states of the penultimate neurons, ``[N, D]``, in 0..1: a quantity for statistics."""

    head: LinearHead
    alpha: float

    def __call__(self, batch: Activations) -> Tensor:
        head = self.head.like(batch.features)
        gradient = (batch.logits.softmax(dim=1) - 1 / head.num_classes) @ head.weight
        return (self.alpha * batch.features * gradient).sigmoid()


def _covered_share(counts: Tensor, full: float, images: int | None) -> Tensor:
    """How far every bin is covered, 0 to 1, of its counts ``[K, bins]`` scaled to ``images``."""
    scale = 1.0 if images is None else images / counts[0].sum()
    return (counts.to(torch.float64) * scale / full).clamp(max=1)


def _mean_coverage(coverage: Tensor, edges: Tensor, states: Tensor) -> Tensor:
    """Mean over neurons of the coverage ``[K, bins]`` of their states ``[N, K]``, ``[N]``."""
    index = torch.bucketize(states.contiguous(), edges, right=True) - 1
    return coverage.T.gather(0, index).mean(dim=1)


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


@dataclass(frozen=True)
class NeuronEffects:
    """At every layer, activation times gradient, each summed over space or tokens, ``[N, K]``.

    The gradient is that of the mean over classes of ``-log p_c``.
    """

    paths: tuple[str, ...]

    def names(self) -> tuple[str, ...]:
        return tuple(f"{path}:effect" for path in self.paths)

    def layers(self) -> tuple[str, ...]:
        return self.paths

    def __call__(self, network: Network, images: Tensor) -> dict[str, Tensor]:
        square = images.ndim == 4 and images.shape[2] == images.shape[3]
        sites = [Site.output(path) for path in self.paths]
        found = network.layer_gradients(images, [s.layer for s in sites], _distance_from_uniform)
        effects = []
        for site, both in zip(sites, found, strict=True):
            summed = [pooled(values, "sum", site.channels, square) for values in both]
            effects.append(summed[0] * summed[1])
        return dict(zip(self.names(), effects, strict=True))


def _distance_from_uniform(logits: Tensor) -> Tensor:
    return -logits.log_softmax(dim=1).mean(dim=1).sum()


@dataclass(eq=False)
class NACUE(Detector):
    """NAC-UE: minus the coverage of the neurons' states at several layers, the mean over layers.

    As ``NAC`` at the penultimate layer, and at earlier ones with ``s = sigmoid(alpha h g)``, where
    h is what a channel returns, summed over space or tokens, and g the gradient there, summed too.

    Args:
        layers: paths of the earlier layers; the default is that of torchvision's and timm's
            ResNets.
        bins: M, the number of bin edges, of each layer and, last, of the penultimate one.
        full: O, from how many training images in it a bin is fully covered; likewise.
        alpha: steepness of the sigmoid; likewise.
        images: the number of training images O is meant for, as in ``NAC``.

    The defaults are the authors' for CIFAR-10 on ResNet-18. Theirs for other networks, (O, M,
    alpha) from the lowest layer: CIFAR-100 on ResNet-18 (5, 50, .005), (500, 50, 1), (500, 1000,
    10), (50, 50, 50); ImageNet on ResNet-50 (5000, 1000, 1), (50, 500, .01), (500, 50, 300), (10,
    50, 3000), all of 1,000 training images. They were tuned on OOD images, and alpha spans six
    orders of magnitude: on another network, look at the result before you trust it.

    It runs the network once more for every image, and once backwards to the lowest layer.

    Source: Liu et al., ICLR 2024, arXiv 2306.02879, and the authors' program, which defines the
    bins.
    """

    name: ClassVar[str] = "nac_ue"
    paper: ClassVar[Paper | None] = NAC.paper
    measures: ClassVar[str] = "minus the coverage of the neurons' states at several layers"

    layers: tuple[str, ...] = parameter(("layer1", "layer2", "layer3"), "paths of earlier layers")
    bins: tuple[int, ...] = parameter(
        (500, 50, 500, 50), "edges of the bins of a neuron's state, by layer"
    )
    full: tuple[float, ...] = parameter(
        (100.0, 5.0, 100.0, 50.0), "images from which a bin is fully covered, by layer"
    )
    alpha: tuple[float, ...] = parameter(
        (0.001, 0.001, 1000.0, 100.0), "steepness of the sigmoid of the state, by layer"
    )
    images: int | None = parameter(
        1000, "training images that counts are scaled to; None: not scaled", within=(1, 1e12)
    )

    coverage: Tensor = learned()
    """How far every bin of every neuron is covered, 0 to 1, of all layers behind one another."""
    widths: Tensor = learned()
    """Number of neurons of every layer, ``[L + 1]``."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.layers:
            raise InvalidInput("layers is empty: name at least one, or take the detector 'nac'.")
        for name in ("bins", "full", "alpha"):
            values = getattr(self, name)
            low, high = (4, 1e6) if name == "bins" else (0, 1e30)
            if len(values) != len(self.layers) + 1 or not all(
                low <= value <= high and value > 0 for value in values
            ):
                above = "of 4 to a million" if low else "above 0"
                raise InvalidInput(
                    f"{name} must be {len(self.layers) + 1} numbers {above}, one for each of "
                    f"layers and one for the penultimate layer, got {values}."
                )

    @property
    def requires(self) -> Requirements:
        return Requirements(probes=(self._probe(),))

    def learn(self, head: LinearHead) -> Learning:
        counts = yield tuple(
            BinCounts(states, tuple(bin_edges(bins).tolist()))
            for states, bins in zip(self._states(head), self.bins, strict=True)
        )
        covered = [
            _covered_share(c, o, self.images) for c, o in zip(counts, self.full, strict=True)
        ]
        self.coverage = torch.cat([layer.flatten() for layer in covered])
        self.widths = torch.tensor([len(layer) for layer in covered])

    def compute(self, batch: Activations) -> Tensor:
        assert self.head is not None
        means, start = [], 0
        for states, bins, width in zip(
            self._states(self.head), self.bins, self.widths.tolist(), strict=True
        ):
            edges = bin_edges(bins).to(batch.features)
            size = width * (len(edges) - 1)
            coverage = self.coverage[start : start + size].view(width, -1)
            means.append(_mean_coverage(coverage, edges, states(batch)))
            start += size
        return -torch.stack(means).mean(dim=0)

    def _states(self, head: LinearHead) -> list[Callable[[Activations], Tensor]]:
        names, (*alphas, last) = self._probe().names(), self.alpha
        earlier = [_LayerStates(n, alpha) for n, alpha in zip(names, alphas, strict=True)]
        return [*earlier, NeuronStates(head, last)]

    def _probe(self) -> NeuronEffects:
        return NeuronEffects(self.layers)


@dataclass(frozen=True)
class _LayerStates:
    """The states of a layer's neurons, ``[N, K]``, in 0..1: a quantity for statistics."""

    name: str
    alpha: float

    def __call__(self, batch: Activations) -> Tensor:
        return (self.alpha * batch.extras[self.name].to(batch.features)).sigmoid()
