"""CoP and CoRP: kernel principal components of the features, and what they do not reconstruct."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import normalize

from neroli.activations import Activations
from neroli.assumptions import Assumption
from neroli.detectors.about import Paper, parameter
from neroli.detectors.base import Detector, learned
from neroli.fitting import Learning
from neroli.head import LinearHead
from neroli.moments import Covariance, Gaussian

_PAPER = Paper(
    "Fang et al.", 2024, "NeurIPS", "2402.02949", "Kernel PCA for Out-of-Distribution Detection"
)


@dataclass(eq=False)
class CoP(Detector):
    """Reconstruction error of the normalised features from their principal components.

    ``||(I - U U^T)(a/||a|| - m)||``: m is the mean and U the first principal directions of the
    normalised training features, as many as explain the wanted share of the variance.

    Args:
        explained_variance: that share; the paper takes 0.85 for CIFAR-10 and 0.99 for ImageNet.

    Features that are all zero stay so. Training images that are all the same have no principal
    directions: the score is the distance to them.

    Source: Fang et al., NeurIPS 2024, arXiv 2402.02949 (cosine kernel), and the authors' program.
    """

    name: ClassVar[str] = "cop"
    paper: ClassVar[Paper | None] = _PAPER
    measures: ClassVar[str] = "what principal components miss of the normalised features"
    assumes: ClassVar[tuple[Assumption, ...]] = ("more images than features",)

    explained_variance: float = parameter(0.85, "share of variance explained", within=(0, 1))

    centre: Tensor = learned()
    """Mean normalised features, ``[D]``."""
    directions: Tensor = learned()
    """Principal directions, ``[D, q]``."""

    def learn(self, head: LinearHead) -> Learning:
        gaussian = yield Covariance(_Cosine())
        self.centre, self.directions = gaussian.mean, _leading(gaussian, self.explained_variance)

    def compute(self, batch: Activations) -> Tensor:
        return _error(normalize(batch.features, dim=1), self.centre, self.directions)


@dataclass(eq=False)
class CoRP(Detector):
    """Reconstruction error of random Fourier features from their principal components.

    ``||(I - U U^T)(f(a) - m)||`` with m and U as in ``CoP``, but of
    ``f(a) = sqrt(2/M) cos(V a/||a|| + u)``, which stands for a Gaussian kernel on the normalised
    features: V is drawn from N(0, 2 gamma), u from 0 to 2 pi.

    Args:
        explained_variance: share the components explain; 0.8 for CIFAR-10, 0.5 for ImageNet.
        gamma: of the kernel; 2 for CIFAR-10, 3 for ImageNet.
        random_features: M; None takes four times the features, at most 4096, which are the paper's
            2048 and 4096 for its networks.
        seed: of the draw; a subclass with another ``draw`` repeats another program's.

    Features that are all zero stay so before V is applied.

    Source: Fang et al., NeurIPS 2024, arXiv 2402.02949 (cosine-Gaussian kernel), and the authors'
    program.
    """

    name: ClassVar[str] = "corp"
    paper: ClassVar[Paper | None] = _PAPER
    measures: ClassVar[str] = "what principal components miss of random Fourier features"
    assumes: ClassVar[tuple[Assumption, ...]] = ("more images than features",)

    explained_variance: float = parameter(0.8, "share of variance explained", within=(0, 1))
    gamma: float = parameter(2.0, "of the Gaussian kernel", above=0)
    random_features: int | None = parameter(
        None, "random Fourier features; None: 4 times the features, at most 4096", within=(1, 1e6)
    )
    seed: int = parameter(0, "of the random Fourier features", within=(0, 2**32))

    frequencies: Tensor = learned()
    """V, ``[M, D]``, in float32."""
    phases: Tensor = learned()
    """u, ``[M]``, in float32."""
    centre: Tensor = learned()
    """Mean random features, ``[M]``."""
    directions: Tensor = learned()
    """Principal directions, ``[M, q]``."""

    def draw(self, num_features: int) -> tuple[Tensor, Tensor]:
        """V ``[M, D]`` and u ``[M]``; in float32, so that every precision uses the same ones."""
        count = self.random_features or min(4 * num_features, 4096)
        generator = torch.Generator().manual_seed(self.seed)
        normal = torch.randn(count, num_features, generator=generator, dtype=torch.float64)
        uniform = torch.rand(count, generator=generator, dtype=torch.float64)
        return (math.sqrt(2 * self.gamma) * normal).float(), (2 * math.pi * uniform).float()

    def learn(self, head: LinearHead) -> Learning:
        self.frequencies, self.phases = self.draw(head.num_features)
        gaussian = yield Covariance(_RandomFourier(self.frequencies, self.phases))
        self.centre, self.directions = gaussian.mean, _leading(gaussian, self.explained_variance)

    def compute(self, batch: Activations) -> Tensor:
        values = _random_fourier(batch.features, self.frequencies, self.phases)
        return _error(values, self.centre, self.directions)


@dataclass(frozen=True)
class _Cosine:
    """Normalised features."""

    def __call__(self, batch: Activations) -> Tensor:
        return normalize(batch.quantity("features"), dim=1)


@dataclass(frozen=True, eq=False)
class _RandomFourier:
    """Random Fourier features of the normalised ones."""

    frequencies: Tensor
    phases: Tensor

    def __call__(self, batch: Activations) -> Tensor:
        features = batch.quantity("features")
        return _random_fourier(features, self.frequencies.to(features), self.phases.to(features))


def _random_fourier(features: Tensor, frequencies: Tensor, phases: Tensor) -> Tensor:
    angles = normalize(features, dim=1) @ frequencies.T + phases
    values: Tensor = math.sqrt(2 / len(phases)) * angles.cos()
    return values


def _leading(gaussian: Gaussian, explained: float) -> Tensor:
    """As many principal directions ``[K, q]`` as explain the share, none that does not vary."""
    variances, directions = torch.linalg.eigh(gaussian.covariance)
    variances, directions = variances.clamp(min=0).flip(0), directions.flip(1)
    # Rounding of a covariance is of the size of the values, even where they do not vary at all.
    scale = variances[0] + gaussian.mean.square().sum()
    varying = int((variances > len(variances) * torch.finfo(torch.float64).eps * scale).sum())
    share = variances.cumsum(0) / variances.sum().clamp(min=torch.finfo(torch.float64).tiny)
    wanted = int((share < explained).sum()) + 1  # the first with at least that share
    leading: Tensor = directions[:, : min(wanted, varying)]
    return leading.contiguous()


def _error(values: Tensor, centre: Tensor, directions: Tensor) -> Tensor:
    centred = values - centre
    missed: Tensor = centred - (centred @ directions) @ directions.T
    error: Tensor = missed.norm(dim=1)
    return error
