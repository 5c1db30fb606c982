"""ViM and Residual: what of the features lies outside of the principal subspace."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from neroli.activations import Activations
from neroli.assumptions import Assumption
from neroli.detectors.about import Paper, parameter
from neroli.detectors.base import Detector, learned
from neroli.errors import InvalidInput, NotEnoughImages
from neroli.fitting import Learning
from neroli.head import LinearHead
from neroli.moments import Covariance, Gaussian
from neroli.statistics import Mean

_PAPER = Paper(
    "Wang et al.",
    2022,
    "CVPR",
    "2203.10807",
    "ViM: Out-Of-Distribution with Virtual-logit Matching",
)
_DIM = "dimension of the principal subspace; None: 1000, 512 or half of the features"


@dataclass(eq=False)
class Residual(Detector):
    """Norm of the features' part outside of the principal subspace.

    ``||N^T (a - o)||``: ``o = -pinv(W) b`` is where the logits vanish, N the eigenvectors of the
    training features' second moments around o but the first ``dim``.

    Args:
        dim: dimension of the principal subspace, less than the number of features D; None takes the
            authors' 1000 where D >= 2048, 512 where D >= 768 and D // 2 below.

    Source: Wang et al., CVPR 2022, arXiv 2203.10807, and the authors' program.
    """

    name: ClassVar[str] = "residual"
    paper: ClassVar[Paper | None] = _PAPER
    measures: ClassVar[str] = "norm of the features outside of the principal subspace"
    assumes: ClassVar[tuple[Assumption, ...]] = ("more images than features",)

    dim: int | None = parameter(None, _DIM, at_least=0)

    origin: Tensor = learned()
    """Where the logits vanish, ``[D]``."""
    complement: Tensor = learned()
    """Orthonormal columns outside of the principal subspace, ``[D, D - dim]``."""

    def learn(self, head: LinearHead) -> Learning:
        size = _dimension(self.dim, head.num_features)
        gaussian = yield Covariance("features")
        self.origin, self.complement = _outside(gaussian, head, size)

    def compute(self, batch: Activations) -> Tensor:
        return _residual(batch.features, self.origin, self.complement)


@dataclass(eq=False)
class ViM(Detector):
    """Virtual logit of what lies outside of the principal subspace, against the logits' energy.

    ``alpha ||N^T (a - o)|| - LSE(z)``, N and o as in ``Residual`` and ``alpha`` the mean largest
    logit over the mean residual, both on training. The paper's probability of the virtual class has
    the same order. Should the mean largest logit be negative, its size counts: the residual would
    speak for ID otherwise. Raises NotEnoughImages if no training image leaves the subspace.

    Args:
        dim: dimension of the principal subspace, less than the number of features D; None takes the
            authors' 1000 where D >= 2048, 512 where D >= 768 and D // 2 below.

    Source: Wang et al., CVPR 2022, arXiv 2203.10807, and the authors' program.
    """

    name: ClassVar[str] = "vim"
    paper: ClassVar[Paper | None] = _PAPER
    measures: ClassVar[str] = "energy, and the norm of the features outside their subspace"
    assumes: ClassVar[tuple[Assumption, ...]] = ("more images than features",)

    dim: int | None = parameter(None, _DIM, at_least=0)

    origin: Tensor = learned()
    """Where the logits vanish, ``[D]``."""
    complement: Tensor = learned()
    """Orthonormal columns outside of the principal subspace, ``[D, D - dim]``."""
    alpha: Tensor = learned()
    """What scales the residual to the logits, a scalar."""

    def learn(self, head: LinearHead) -> Learning:
        size = _dimension(self.dim, head.num_features)
        gaussian = yield Covariance("features")
        self.origin, self.complement = _outside(gaussian, head, size)
        logit, residual, norm = yield Mean(_LargestLogit(self.origin, self.complement))
        if residual <= 1e-10 * norm:  # rounding: their quotient would be arbitrary
            raise NotEnoughImages(
                f"ViM keeps {size} principal directions, and none of the {gaussian.count} training "
                "images has features outside of them: give more images, or set a smaller dim."
            )
        self.alpha = logit.abs() / residual

    def compute(self, batch: Activations) -> Tensor:
        residual = _residual(batch.features, self.origin, self.complement)
        return self.alpha * residual - batch.logits.logsumexp(dim=1)


@dataclass(frozen=True, eq=False)
class _LargestLogit:
    """Largest logit, residual and distance from the origin: ``[N, 3]``."""

    origin: Tensor
    complement: Tensor

    def __call__(self, batch: Activations) -> Tensor:
        features = batch.quantity("features")
        largest = batch.quantity("logits").amax(dim=1)
        residual = _residual(features, self.origin, self.complement)
        return torch.stack([largest, residual, (features - self.origin).norm(dim=1)], dim=1)


def _dimension(dim: int | None, size: int) -> int:
    if dim is None:
        return 1000 if size >= 2048 else 512 if size >= 768 else size // 2
    if dim >= size:
        raise InvalidInput(f"dim is {dim}, but this model has only {size} features: set less.")
    return dim


def _outside(gaussian: Gaussian, head: LinearHead, dim: int) -> tuple[Tensor, Tensor]:
    """The origin and the eigenvectors but the first ``dim``."""
    weight, bias = head.weight.to(gaussian.mean), head.bias.to(gaussian.mean)
    origin = -torch.linalg.pinv(weight) @ bias
    offset = gaussian.mean - origin
    moments = gaussian.covariance + torch.outer(offset, offset)  # around the origin, not the mean
    directions = torch.linalg.eigh(moments).eigenvectors  # in rising order of their variance
    return origin, directions[:, : len(directions) - dim].contiguous()


def _residual(features: Tensor, origin: Tensor, complement: Tensor) -> Tensor:
    residual: Tensor = ((features - origin) @ complement).norm(dim=1)
    return residual
