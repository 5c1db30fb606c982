"""CADRef and CARef: how far, relative to its size, a feature vector lies from its class's mean."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from neroli.activations import Activations
from neroli.assumptions import Assumption
from neroli.detectors.about import Paper, parameter
from neroli.detectors.base import Detector, learned
from neroli.detectors.shares import Shares, neurons_alone
from neroli.fitting import Learning
from neroli.head import LinearHead
from neroli.moments import ClassMoments
from neroli.statistics import Mean

_PAPER = Paper(
    "Ling et al.",
    2025,
    "CVPR",
    "",
    "CADRef: Robust Out-of-Distribution Detection via Class-Aware Decoupled Relative Feature "
    "Leveraging",
)
_SMALLEST_NORM = 1e-12
_SMALLEST_ENERGY = 1e-3
_SMALLEST_GEN = 1e-6

LogitScore = Literal["energy", "max_logit", "msp", "gen"]
"""The logit score L of CADRef: larger for in-distribution images."""


@dataclass(eq=False)
class CARef(Detector):
    """CARef: relative L1 distance of the features to the mean of the predicted class.

    ``S = |a - mu_c|_1 / |a|_1`` with c the predicted class and ``mu_c`` the mean of the training
    features that were predicted as c, whatever their true class.

    A class that was never predicted has the mean of all training features; ``|a|_1`` counts as at
    least 1e-12, so that an image without any active neuron has a huge score, not NaN.

    Source: Ling et al., CVPR 2025, and the authors' program.
    """

    name: ClassVar[str] = "caref"
    paper: ClassVar[Paper | None] = _PAPER
    measures: ClassVar[str] = "L1 distance to the predicted class's mean over the feature norm"
    assumes: ClassVar[tuple[Assumption, ...]] = ("images of every predicted class",)

    means: Tensor = learned()
    """Mean features of every predicted class, ``[C, D]``."""

    def learn(self, head: LinearHead) -> Learning:
        classes = yield ClassMoments("features", "predicted", allow_empty=True)
        self.means = classes.filled().mean

    def compute(self, batch: Activations) -> Tensor:
        return self.split(batch).score

    def split(self, batch: Activations) -> Shares:
        """The absolute deviation of each neuron."""
        deviation = batch.features - self.means[batch.predictions]
        return neurons_alone(deviation.abs() / _norm(batch.features)[:, None])


@dataclass(eq=False)
class CADRef(Detector):
    """CADRef: CARef's distance split by whether a neuron's deviation raises the class's logit.

    ``S = E_p / L + E_n / mean L``, where ``E_p`` (``E_n``) is the L1 norm of the deviations
    ``a - mu_c`` that have (have not) the sign of the predicted class's weight, over ``|a|_1``;
    L is a score of the logits, and its mean is over the training images. A weight of zero counts
    for neither.

    L must be positive or the sign of a term would flip. Energy and maximum logit may not be, so
    below 0.001 they count as 0.001, in training too: choose "msp" or "gen" for a network whose
    logits are mostly negative. The entropy of "gen" counts as at least 1e-6. For means of classes
    and the norm see CARef.

    Args:
        logit_score: L: "energy" (log-sum-exp of the logits), "max_logit", "msp" (largest softmax
            probability), or "gen", one over the generalised entropy of GEN with gamma 0.1 over
            the max(10, C // 10) largest probabilities.

    Source: Ling et al., CVPR 2025, and the authors' program.
    """

    name: ClassVar[str] = "cadref"
    paper: ClassVar[Paper | None] = _PAPER
    measures: ClassVar[str] = "CARef's distance by sign of effect, scaled by a logit score"
    assumes: ClassVar[tuple[Assumption, ...]] = (
        "positive energy",
        "images of every predicted class",
    )

    logit_score: LogitScore = parameter("energy", "score of the logits to scale by")

    means: Tensor = learned()
    """Mean features of every predicted class, ``[C, D]``."""
    mean_score: Tensor = learned()
    """Mean logit score of the training images, a scalar."""

    @property
    def assumed(self) -> tuple[Assumption, ...]:
        always_positive = self.logit_score in ("msp", "gen")
        return tuple(a for a in self.assumes if a != "positive energy" or not always_positive)

    def learn(self, head: LinearHead) -> Learning:
        classes, self.mean_score = yield (
            ClassMoments("features", "predicted", allow_empty=True),
            Mean(_PositiveScore(self.logit_score)),
        )
        self.means = classes.filled().mean

    def compute(self, batch: Activations) -> Tensor:
        return self.split(batch).score

    def split(self, batch: Activations) -> Shares:
        """The deviation of each neuron, scaled by its sign."""
        assert self.head is not None
        deviation = batch.features - self.means[batch.predictions]
        effect = deviation * self.head.weight.sign()[batch.predictions]
        effect /= _norm(batch.features)[:, None]
        raising = effect.relu() / _PositiveScore(self.logit_score)(batch)[:, None]
        return neurons_alone(raising + (-effect).relu() / self.mean_score)


@dataclass(frozen=True)
class _PositiveScore:
    """The logit score L of every image, ``[N]``, always above zero."""

    kind: LogitScore

    def __call__(self, batch: Activations) -> Tensor:
        logits = batch.logits
        if self.kind == "energy":
            return logits.logsumexp(dim=1).clamp(min=_SMALLEST_ENERGY)
        if self.kind == "max_logit":
            return logits.amax(dim=1).clamp(min=_SMALLEST_ENERGY)
        if self.kind == "msp":
            return logits.softmax(dim=1).amax(dim=1)
        return 1 / _generalised_entropy(logits).clamp(min=_SMALLEST_GEN)


def _generalised_entropy(logits: Tensor, gamma: float = 0.1) -> Tensor:
    """GEN's entropy ``sum p^gamma (1 - p)^gamma`` over the largest probabilities."""
    classes = logits.shape[1]
    descending = logits.softmax(dim=1).sort(dim=1, descending=True).values
    complement = 1 - descending
    # 1 - p rounds to zero for a confident image, and a power of 0.1 makes much of the rest.
    complement[:, 0] = descending[:, 1:].sum(dim=1)
    kept = min(classes, max(10, classes // 10))
    return (descending * complement)[:, :kept].clamp(min=0).pow(gamma).sum(dim=1)


def _norm(features: Tensor) -> Tensor:
    return features.abs().sum(dim=1).clamp(min=_SMALLEST_NORM)
