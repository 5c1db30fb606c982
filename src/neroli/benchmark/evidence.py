"""Evidence: how well a detector tells ID images from stand-ins for OOD ones, and how surely.

The objective is the mean of its AUROC over classes left out in turn and of that of corrupted
against clean held-out images. Two sources of chance are counted: which classes happen to be new, by
the spread over the folds, and which images there happen to be, by DeLong's variance of the AUROC on
corrupted images. Both are paired where two detectors are compared, as they saw the same images.

That the clean images are the same on both kinds of stand-in, and in all folds, is not counted: the
interval of the objective is a little too narrow. Gains are judged on either kind apart.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neroli.activations import ActivationSource
from neroli.benchmark.left_out import folds, left_out_scores
from neroli.benchmark.proxies import Scores, held_out_scores
from neroli.detectors import Detector
from neroli.errors import NotEnoughImages
from neroli.head import LinearHead
from neroli.metrics import Interval, auroc, interval_levels

TRAINING = "training"
"""Among the scores by source: those of training images."""


@dataclass(frozen=True)
class Measured:
    """A number with the variance of its error.

    Attributes:
        value: the number.
        variance: estimated; infinite where nothing is known of it.
        freedom: degrees of freedom of that estimate; infinite if the variance is exact.
    """

    value: float
    variance: float
    freedom: float

    @property
    def error(self) -> float:
        """The standard error."""
        return math.sqrt(self.variance)

    def interval(self, level: float = 0.95) -> Interval:
        """Student's confidence interval; everything if nothing is known of the error."""
        from scipy.stats import t

        if math.isinf(self.variance):
            return Interval(self.value, -math.inf, math.inf)
        low, high = (
            self.value + self.error * float(t.ppf(quantile, self.freedom))
            for quantile in interval_levels(level)
        )
        return Interval(self.value, low, high)

    def chance(self) -> float:
        """The probability of so high a number if the true one is zero: Student's one-sided p."""
        from scipy.stats import t

        if math.isinf(self.variance):
            return 1.0
        if self.variance == 0:
            return 0.0 if self.value > 0 else 1.0
        return float(t.sf(self.value / self.error, self.freedom))


def mean_of(parts: Sequence[Measured]) -> Measured:
    """The mean of independent numbers, with Welch's and Satterthwaite's degrees of freedom.

    Source: Satterthwaite, Biometrics Bulletin 2, 1946.
    """
    value = sum(part.value for part in parts) / len(parts)
    total = sum(part.variance for part in parts)
    if math.isinf(total):
        return Measured(value, math.inf, 1.0)
    weight = sum(part.variance**2 / part.freedom for part in parts)
    freedom = total**2 / weight if weight > 0 else math.inf
    return Measured(value, total / len(parts) ** 2, freedom)


def sample_mean(values: Sequence[float] | NDArray[Any]) -> Measured:
    """A mean, with the variance that the spread of the values shows; infinite for a single one."""
    count = len(values)
    if count < 2:
        return Measured(float(np.mean(values)), math.inf, 1.0)
    return Measured(float(np.mean(values)), float(np.var(values, ddof=1)) / count, count - 1)


def measured_auroc(scores: Scores) -> Measured:
    """An AUROC with DeLong's variance, which is infinite where there is but one image of a kind.

    Source: DeLong et al., Biometrics 1988.
    """
    return _delong(auroc(*scores), _placements(scores))


def auroc_difference(one: Scores, other: Scores) -> Measured:
    """By how much the AUROC of one detector exceeds that of another on the same images.

    Source: DeLong et al., Biometrics 1988.
    """
    differences = [a - b for a, b in zip(_placements(one), _placements(other), strict=True)]
    return _delong(auroc(*one) - auroc(*other), differences)


def holm(chances: Sequence[float]) -> list[float]:
    """Probabilities, corrected for being several: each as in Holm's step-down procedure.

    Source: Holm, Scandinavian Journal of Statistics 6, 1979.
    """
    corrected = [1.0] * len(chances)
    largest = 0.0
    for place, number in enumerate(sorted(range(len(chances)), key=lambda n: chances[n])):
        largest = max(largest, min(1.0, (len(chances) - place) * chances[number]))
        corrected[number] = largest
    return corrected


@dataclass(frozen=True, eq=False)
class Evidence:
    """What a detector gave to stand-ins for OOD images.

    Attributes:
        left_out: its scores in every fold of classes left out; none if none could be.
        corrupted: of clean and of corrupted held-out images; None if there are none of these.
        training: of training images (``inside``) and of held-out ones (``outside``); None if they
            were not asked for.
    """

    left_out: tuple[Scores, ...]
    corrupted: Scores | None
    training: Scores | None = None

    def on_left_out(self) -> Measured | None:
        """Mean AUROC over the folds."""
        return sample_mean(self._aurocs()) if self.left_out else None

    def on_corrupted(self) -> Measured | None:
        """AUROC of corrupted against clean images."""
        return None if self.corrupted is None else measured_auroc(self.corrupted)

    def objective(self) -> Measured:
        """The mean of both AUROCs, or the one there is."""
        both = (self.on_left_out(), self.on_corrupted())
        return mean_of([each for each in both if each is not None])

    def gains_over(self, other: Evidence) -> dict[str, Measured]:
        """By how much either AUROC exceeds another detector's of the same images."""
        gains = {}
        if self.left_out:
            pairs = zip(self._aurocs(), other._aurocs(), strict=True)
            gains["left-out classes"] = sample_mean([mine - theirs for mine, theirs in pairs])
        if self.corrupted is not None and other.corrupted is not None:
            gains["corrupted images"] = auroc_difference(self.corrupted, other.corrupted)
        return gains

    def gain_over(self, other: Evidence) -> Measured:
        """By how much the objective exceeds another detector's of the same images."""
        return mean_of(list(self.gains_over(other).values()))

    def _aurocs(self) -> list[float]:
        return [auroc(*scores) for scores in self.left_out]


def evidence_of(
    detectors: Sequence[Detector],
    train: ActivationSource,
    head: LinearHead,
    held_out: ActivationSource,
    corrupted: ActivationSource | None,
    *,
    seed: int,
    some_training: ActivationSource | None = None,
) -> list[Evidence | str]:
    """What detectors give to stand-ins for OOD images, all fitted in the same passes.

    Args:
        detectors: any number of detectors; they are left as they were.
        train: ID training images.
        head: of the network.
        held_out: ID images that neither the classifier nor a detector was trained on.
        corrupted: such images corrupted, see ``neroli.data.corruptions``; None if there are none.
        seed: of which classes are left out together, where there are many.
        some_training: those of the training images that are scored too.

    Returns:
        for each detector its evidence, or why there is none.

    Raises:
        NotEnoughImages: if there is nothing to stand in for OOD data.
    """
    labelled = train.has_labels and held_out.has_labels
    left_out: list[tuple[Scores, ...] | str] = [()] * len(detectors)
    if labelled:
        left_out = left_out_scores(detectors, train, head, held_out, folds(head.num_classes, seed))
    if corrupted is None and () in left_out:
        raise NotEnoughImages(
            "There is nothing to stand in for OOD data: give corrupted images, or labels of both "
            "training and held-out images of at least three classes (there are "
            f"{head.num_classes}, {'with' if labelled else 'without'} labels)."
        )
    given = {"corrupted": corrupted, TRAINING: some_training}
    others = {kind: source for kind, source in given.items() if source is not None}
    found: list[dict[str, NDArray[Any]] | str] = [{}] * len(detectors)
    if others:
        found = held_out_scores(detectors, train, head, held_out, others)
    return [_evidence(*each) for each in zip(left_out, found, strict=True)]


def _evidence(
    left_out: tuple[Scores, ...] | str, found: dict[str, NDArray[Any]] | str
) -> Evidence | str:
    if isinstance(left_out, str):
        return left_out
    if isinstance(found, str):
        return found
    corrupted = training = None
    if "corrupted" in found:
        corrupted = Scores(found["held-out"], found["corrupted"])
    if TRAINING in found:
        training = Scores(found[TRAINING], found["held-out"])
    return Evidence(left_out, corrupted, training)


def _delong(value: float, placements: Sequence[NDArray[Any]]) -> Measured:
    """A mean of placements with its variance, that of both kinds of images together."""
    if min(map(len, placements)) < 2:
        return Measured(value, math.inf, 1.0)
    parts = [sample_mean(each) for each in placements]
    whole = mean_of(parts)
    return Measured(value, whole.variance * len(parts) ** 2, whole.freedom)


def _placements(scores: Scores) -> tuple[NDArray[Any], NDArray[Any]]:
    """For every image the share of those of the other kind that score on the right side of it.

    Equal scores count half; the mean of either is the AUROC.
    """
    inside, outside = np.sort(scores.inside), np.sort(scores.outside)

    def below(values: NDArray[Any], among: NDArray[Any]) -> NDArray[Any]:
        places = [np.searchsorted(among, values, side) for side in ("left", "right")]
        return np.asarray((places[0] + places[1]) / (2 * len(among)))

    return 1 - below(scores.inside, outside), below(scores.outside, inside)
