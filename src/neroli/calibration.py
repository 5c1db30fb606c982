"""Thresholds that keep a stated false-alarm rate, learned from held-out in-distribution images.

The scores of n calibration images say how high ordinary images score. Whatever the detector, if new
ID images are exchangeable with the calibration images, then with ``guarantee="average"`` the
false-alarm rate is at most ``false_alarm_rate`` on average over calibration sets (split conformal
prediction; Vovk et al. 2005, Lei et al. 2018), and with ``guarantee="confidence"`` it is so for
this very calibration set with probability ``confidence`` (the rate above the k-th smallest of n
scores is Beta distributed; Wilks 1941, Vovk 2012). The second threshold is higher, so an image with
``p_value <= false_alarm_rate`` is not always flagged.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from neroli.errors import InvalidInput, NotEnoughImages
from neroli.validation import check_types
from neroli.verdicts import Verdicts

Guarantee = Literal["average", "confidence"]


@dataclass(frozen=True)
class Promise:
    """What a threshold promises.

    Args:
        false_alarm_rate: share of ID images that may be flagged, in 0..1.
        guarantee: "confidence" holds with probability ``confidence`` for this calibration set,
            "average" on average over calibration sets.
        confidence: probability in 0..1; unused with "average".
        per_class: whether every predicted class with enough images has a threshold of its own. The
            promise then holds for each such class alone, not for all at once.

    Raises:
        InvalidInput: if a value is out of range.
    """

    false_alarm_rate: float = 0.05
    guarantee: Guarantee = "confidence"
    confidence: float = 0.9
    per_class: bool = False

    def __post_init__(self) -> None:
        check_types(self)
        for name in ("false_alarm_rate", "confidence"):
            value = getattr(self, name)
            if not 1e-6 <= value <= 1 - 1e-6:
                raise InvalidInput(f"{name} must lie between 0 and 1, got {value!r}.")

    @property
    def images_needed(self) -> int:
        """The fewest calibration images (of a class, with ``per_class``) that allow it."""
        if self.guarantee == "average":
            return math.ceil(1 / self.false_alarm_rate - 1 - 1e-9)
        return math.ceil(math.log(1 - self.confidence) / math.log(1 - self.false_alarm_rate) - 1e-9)

    def rank(self, count: int) -> int:
        """Which of ``count`` sorted scores, from 1, is the threshold.

        Raises:
            NotEnoughImages: if there are fewer than ``images_needed``.
        """
        if count < self.images_needed:
            sure = f" with {100 * self.confidence:.3g}% confidence"
            sure *= self.guarantee == "confidence"
            raise NotEnoughImages(
                f"A false-alarm rate of {100 * self.false_alarm_rate:.3g}%{sure} needs at least "
                f"{self.images_needed} calibration images, got {count}: give more held-out ID "
                "images, or ask for a higher rate"
                + (" or guarantee='average'." if self.guarantee == "confidence" else ".")
            )
        accepted = 1 - self.false_alarm_rate
        if self.guarantee == "average":
            return math.ceil(accepted * (count + 1) - 1e-9)
        from scipy.stats import beta  # takes a second to import

        ranks = torch.arange(1, count + 1).numpy()
        sure_enough = beta.sf(accepted, ranks, count + 1 - ranks) >= self.confidence - 1e-12
        return int(ranks[sure_enough][0])

    def __str__(self) -> str:
        rate = f"at most {100 * self.false_alarm_rate:.3g}% of in-distribution images flagged"
        if self.per_class:
            rate += ", separately for every predicted class with enough calibration images"
        if self.guarantee == "average":
            return f"{rate}, on average over calibration sets"
        return f"{rate}, with {100 * self.confidence:.3g}% confidence"


@dataclass(frozen=True, eq=False)
class Calibration:
    """Scores of the calibration images, and the p-values and thresholds that follow from them.

    Args:
        scores: ``[n]``, higher = more OOD.
        predictions: ``[n]`` int64 predicted classes.
        num_classes: C.
        promise: what the thresholds promise.

    Raises:
        NotEnoughImages: if there are too few images for the promise.
        InvalidInput: if a score is not finite.
    """

    scores: Tensor
    predictions: Tensor
    num_classes: int
    promise: Promise = field(default_factory=Promise)

    def __post_init__(self) -> None:
        scores = self.scores.to("cpu", torch.float64)
        if scores.ndim != 1 or self.predictions.shape != scores.shape:
            raise InvalidInput(
                f"Calibration needs scores [n] and predictions [n], got {list(scores.shape)} and "
                f"{list(self.predictions.shape)}."
            )
        if not torch.isfinite(scores).all():
            raise InvalidInput("Calibration scores hold NaN or infinity: leave those images out.")
        order = scores.argsort(stable=True)
        object.__setattr__(self, "scores", scores[order])
        object.__setattr__(self, "predictions", self.predictions.cpu()[order])
        pooled = float(self.scores[self.promise.rank(len(scores)) - 1])
        thresholds = torch.full((self.num_classes,), pooled, dtype=torch.float64)
        for c in self.own_classes:
            of_class = self.scores[self.predictions == c]
            thresholds[c] = of_class[self.promise.rank(len(of_class)) - 1]
        object.__setattr__(self, "threshold", pooled)
        object.__setattr__(self, "thresholds", thresholds)

    threshold: float = field(init=False)
    """The threshold over all classes together."""
    thresholds: Tensor = field(init=False)
    """The threshold for each predicted class, ``[C]`` float64."""

    def __len__(self) -> int:
        return len(self.scores)

    def absent_classes(self, training: Sequence[int] | None) -> list[int]:
        """Classes no calibration image was predicted as, though ten or more were to be expected.

        Args:
            training: how many training images were predicted as each class; None if unknown.
        """
        if training is None:
            return []
        expected = torch.tensor(training, dtype=torch.float64)
        expected *= len(self) / expected.sum()
        counts = torch.bincount(self.predictions, minlength=self.num_classes)
        return ((counts == 0) & (expected >= 10)).nonzero()[:, 0].tolist()

    def doubts(self, training: Sequence[int] | None, names: Sequence[str] | None) -> list[str]:
        """Where the promise does not hold, or holds of no use, a sentence each reason.

        Args:
            training: how many training images were predicted as each class; None if unknown.
            names: of the classes, if known.
        """

        def listed(classes: list[int]) -> str:
            shown = [str(c) if names is None else names[c] for c in classes[:10]]
            return ", ".join(shown) + (", ..." if len(classes) > 10 else "")

        doubts = []
        highest = int((self.scores == self.scores[-1]).sum())
        if highest > 1 and self.threshold == self.scores[-1]:
            doubts.append(
                f"{highest} of {len(self)} calibration images share the highest score, which is "
                "then the threshold: only images that score higher still are flagged, and there "
                "may be none. Take another detector, or see why so many images score alike."
            )
        if absent := self.absent_classes(training):
            doubts.append(
                f"No calibration image is predicted as {listed(absent)}: calibrate on images of "
                "all kinds the classifier knows, or the promise does not hold for them."
            )
        pooled = self.pooled_classes
        if self.promise.per_class and pooled:
            doubts.append(
                f"{len(pooled)} of {self.num_classes} classes have fewer than "
                f"{self.promise.images_needed} calibration images and share one threshold, without "
                f"a promise of their own: {listed(pooled)}."
            )
        return doubts

    @property
    def own_classes(self) -> list[int]:
        """Predicted classes with a threshold of their own."""
        if not self.promise.per_class:
            return []
        counts = torch.bincount(self.predictions, minlength=self.num_classes)
        return (counts >= self.promise.images_needed).nonzero()[:, 0].tolist()

    @property
    def pooled_classes(self) -> list[int]:
        """Predicted classes that share the pooled threshold; with per_class, those too small."""
        own = set(self.own_classes)
        return [c for c in range(self.num_classes) if c not in own]

    def is_ood(self, scores: Tensor, predictions: Tensor) -> Tensor:
        """Whether each score exceeds the threshold of its predicted class, bool ``[N]``."""
        return ~(scores.to("cpu", torch.float64) <= self.thresholds[predictions.cpu()])

    def p_values(self, scores: Tensor, predictions: Tensor) -> Tensor:
        """Conformal p-values, ``[N]`` float64 in (0, 1]; small = OOD.

        ``(1 + number of calibration scores at least as high) / (n + 1)``, among the calibration
        images of the same predicted class where that has a threshold of its own.
        """
        scores, predictions = scores.to("cpu", torch.float64), predictions.cpu()
        values = _p_values(self.scores, scores)
        for c in self.own_classes:
            rows = predictions == c
            values[rows] = _p_values(self.scores[self.predictions == c], scores[rows])
        return values

    def verdicts(self, scores: Tensor, predictions: Tensor) -> Verdicts:
        """Everything that follows from scores ``[N]`` and predicted classes ``[N]``."""
        scores, predictions = scores.cpu(), predictions.cpu()
        p_values = self.p_values(scores, predictions)
        return Verdicts(scores, p_values, self.is_ood(scores, predictions), predictions)


def _p_values(calibration: Tensor, scores: Tensor) -> Tensor:
    at_least = len(calibration) - torch.searchsorted(calibration, scores)
    return (1 + at_least).to(torch.float64) / (len(calibration) + 1)
