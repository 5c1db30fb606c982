"""ViM and Residual: what of the features lies outside of the principal subspace."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from neroli.activations import Activations
from neroli.assumptions import Assumption
from neroli.detectors.about import Paper, parameter
from neroli.detectors.base import Detector, learned
from neroli.detectors.gaussians import SINGULAR
from neroli.detectors.shares import Shares, energy_shares, neurons_alone
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
            authors' 1000 where D >= 2048, 512 where D >= 768 and D // 2 below, or half of the rank
            of the training features where that is no more (dead neurons, few images): nothing
            would lie outside.

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
        _check_dim(self.dim, head)
        gaussian = yield Covariance("features")
        self.origin, self.complement = _outside(gaussian, head, self.dim)

    def compute(self, batch: Activations) -> Tensor:
        return _residual(batch.features, self.origin, self.complement)

    def split(self, batch: Activations) -> Shares:
        """What each neuron adds to the norm."""
        return neurons_alone(_residual_shares(batch.features, self.origin, self.complement))


@dataclass(eq=False)
class ViM(Detector):
    """Virtual logit of what lies outside of the principal subspace, against the logits' energy.

    ``alpha ||N^T (a - o)|| - LSE(z)``, N and o as in ``Residual`` and ``alpha`` the mean largest
    logit over the mean residual, both on training. The paper's probability of the virtual class has
    the same order. Should the mean largest logit be negative, its size counts: the residual would
    speak for ID otherwise. Raises NotEnoughImages if no training image leaves the subspace.

    Args:
        dim: dimension of the principal subspace, less than the number of features D; None takes the
            authors' 1000 where D >= 2048, 512 where D >= 768 and D // 2 below, or half of the rank
            of the training features where that is no more (dead neurons, few images): nothing
            would lie outside.

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
        _check_dim(self.dim, head)
        gaussian = yield Covariance("features")
        self.origin, self.complement = _outside(gaussian, head, self.dim)
        logit, residual, norm = yield Mean(_LargestLogit(self.origin, self.complement))
        if residual <= 1e-10 * norm:  # rounding: their quotient would be arbitrary
            kept = len(self.origin) - self.complement.shape[1]
            raise NotEnoughImages(
                f"ViM keeps {kept} principal directions, and none of the {gaussian.count} training "
                "images has features outside of them: give more images, or set a smaller dim."
            )
        self.alpha = logit.abs() / residual

    def compute(self, batch: Activations) -> Tensor:
        residual = _residual(batch.features, self.origin, self.complement)
        return self.alpha * residual - batch.logits.logsumexp(dim=1)

    def split(self, batch: Activations) -> Shares:
        """What each neuron adds to the scaled norm and to the energy."""
        assert self.head is not None
        residual = _residual_shares(batch.features, self.origin, self.complement)
        energy = energy_shares(batch.features, self.head)
        return replace(energy, neurons=energy.neurons + self.alpha * residual)


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


def _check_dim(dim: int | None, head: LinearHead) -> None:
    if dim is not None and dim >= head.num_features:
        raise InvalidInput(
            f"dim is {dim}, but this model has only {head.num_features} features: set less."
        )


def _usual_dim(variances: Tensor) -> int:
    """The dimension of the principal subspace, of variances ``[D]`` along all directions."""
    size = len(variances)
    usual = 1000 if size >= 2048 else 512 if size >= 768 else size // 2
    rank = int((variances > SINGULAR * variances.amax()).sum())
    return usual if rank > usual else rank // 2


def _outside(gaussian: Gaussian, head: LinearHead, dim: int | None) -> tuple[Tensor, Tensor]:
    """The origin and the eigenvectors but the first ``dim``, None being the usual number."""
    weight, bias = head.weight.to(gaussian.mean), head.bias.to(gaussian.mean)
    origin = -torch.linalg.pinv(weight) @ bias
    offset = gaussian.mean - origin
    moments = gaussian.covariance + torch.outer(offset, offset)  # around the origin, not the mean
    variances, directions = torch.linalg.eigh(moments)  # in rising order
    dim = _usual_dim(variances) if dim is None else dim
    return origin, directions[:, : len(directions) - dim].contiguous()


def _residual(features: Tensor, origin: Tensor, complement: Tensor) -> Tensor:
    residual: Tensor = ((features - origin) @ complement).norm(dim=1)
    return residual


def _residual_shares(features: Tensor, origin: Tensor, complement: Tensor) -> Tensor:
    """What each neuron adds to the norm r outside: ``(a - o)_i (N N^T (a - o))_i / r``."""
    offset = features - origin
    outside = offset @ complement
    norm = outside.norm(dim=1, keepdim=True)
    shares: Tensor = offset * (outside @ complement.T) / norm.where(norm > 0, 1.0)
    return shares
