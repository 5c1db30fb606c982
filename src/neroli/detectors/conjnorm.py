"""ConjNorm: density of normalised features under an exponential family with conjugate norms."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from neroli.activations import Activations
from neroli.assumptions import Assumption
from neroli.detectors.about import Paper, parameter
from neroli.detectors.base import Detector, learned
from neroli.fitting import Learning
from neroli.head import LinearHead
from neroli.moments import ClassMoments, Labelling, LogSumExp

PrototypeNorm = Literal["channel", "class"]
Partition = Literal["all", "class"]


@dataclass(eq=False)
class ConjNorm(Detector):
    """ConjNorm: minus the log-density of normalised features, one exponential family a class.

    Features x are divided by their p-norm, and so are the class means mu of the undivided ones;
    ``d_k(x) = -|x|_q^2 / 2 + sum_j x_j sign(mu_kj) |mu_kj|^(q-1) / n^(q-2)``, ``q = p / (p - 1)``,
    and ``S = -log sum_k exp(d_k(x) / t) / Z_k`` where ``Z_k`` sums ``exp(d_k / t)`` over the
    training images.

    Args:
        p: the norm; it is searched for each data set in the paper.
        t: temperature.
        prototype_norm: the n above: "class" is the paper's, ``|mu_k|_q`` of the class; "channel"
            what the authors' program computes, the q-norm of a channel over all classes.
        partition: "all" sums Z_k over all training images, as the authors do for CIFAR (there over
            a bootstrap sample, here over each once); "class" over those of class k, as for
            ImageNet.
        labels: class means over the "true" or over the "predicted" class; the paper's are true.

    Published (p, t): CIFAR-10 (2.2, 0.05) and CIFAR-100 (2.5, 0.08) on DenseNet-101, ImageNet
    (1.5, 0.0005) on ResNet-50. Everything is in the log domain: ``exp(d / t)`` overflows there.
    Features that are all zero stay zero, and d is 0; so does a channel that is zero in all means.
    A class without any training image is left out of the sum over k.

    Source: Peng et al., ICLR 2024, arXiv 2402.17888, and the authors' program.
    """

    name: ClassVar[str] = "conjnorm"
    paper: ClassVar[Paper | None] = Paper(
        "Peng et al.",
        2024,
        "ICLR",
        "2402.17888",
        "ConjNorm: Tractable Density Estimation for Out-of-Distribution Detection",
    )
    measures: ClassVar[str] = "minus log-density of normalised features around class means"
    assumes: ClassVar[tuple[Assumption, ...]] = ("images of every class",)

    p: float = parameter(2.2, "norm of features and class means", between=(1, 1000))
    t: float = parameter(0.05, "temperature", above=0)
    prototype_norm: PrototypeNorm = parameter("channel", "norm in the term of the class mean")
    partition: Partition = parameter("all", "images the partition function sums over")
    labels: Labelling = parameter("true", "class means over the true or the predicted class")

    duals: Tensor = learned()
    """What features are multiplied with in d, ``[C, D]``."""
    log_partition: Tensor = learned()
    """log Z of every class, ``[C]``."""

    def learn(self, head: LinearHead) -> Learning:
        classes = yield ClassMoments("features", self.labels, allow_empty=True)
        means = _unit(classes.mean, self.p)
        q = self.p / (self.p - 1)
        norm = _norm(means, q, 0 if self.prototype_norm == "channel" else 1)
        # |mu|^(q-1) / n^(q-2) = n (|mu| / n)^(q-1), which is zero, not NaN, where mu and n are
        self.duals = means.sign() * norm * (means.abs() / _at_least_tiny(norm)).pow(q - 1)
        only = None if self.partition == "all" else self.labels
        exponents = ClassExponents(self.duals, self.p, self.t, only)
        log_partition = yield LogSumExp(exponents)
        self.log_partition = log_partition.where(classes.count > 0, torch.inf)

    def compute(self, batch: Activations) -> Tensor:
        exponents = ClassExponents(self.duals, self.p, self.t)(batch)
        return -(exponents - self.log_partition).logsumexp(dim=1)


@dataclass(frozen=True, eq=False)
class ClassExponents:
    """``d_k(x) / t`` of every image and class, ``[N, C]``: a quantity for statistics.

    Args:
        duals: of the classes, ``[C, D]``.
        p: the norm.
        t: temperature.
        only: minus infinity for every class but the true or predicted one; None: for none.
    """

    duals: Tensor
    p: float
    t: float
    only: Labelling | None = None

    def __call__(self, batch: Activations) -> Tensor:
        features = _unit(batch.features, self.p)
        duals = self.duals.to(features)
        size = _norm(features, self.p / (self.p - 1), 1)
        exponents = (features @ duals.T - size.square() / 2) / self.t
        if self.only is None:
            return exponents
        labels = batch.predictions if self.only == "predicted" else batch.labels
        assert labels is not None, "class means have needed labels before"
        others = torch.ones_like(exponents, dtype=torch.bool).scatter_(1, labels[:, None], False)
        return exponents.masked_fill(others, -torch.inf)


def _unit(values: Tensor, p: float) -> Tensor:
    """Rows divided by their p-norm; a row of zeros stays."""
    return values / _at_least_tiny(_norm(values, p, 1))


def _norm(values: Tensor, p: float, dim: int) -> Tensor:
    """The p-norm, scaled by the largest value: its p-th power may lie outside of the dtype."""
    largest = _at_least_tiny(values.abs().amax(dim=dim, keepdim=True))
    return (values / largest).abs().pow(p).sum(dim=dim, keepdim=True).pow(1 / p) * largest


def _at_least_tiny(values: Tensor) -> Tensor:
    return values.clamp(min=torch.finfo(values.dtype).tiny)
