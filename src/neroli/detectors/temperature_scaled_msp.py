"""Maximum softmax probability of logits whose temperature is calibrated."""

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
from neroli.statistics import ConfusionCounts, Mean

_COLDEST, _HOTTEST = 1e-3, 1e3
_MOST_PASSES = 60
_TINY = 1e-300
_STEP = 4.0
"""By how much an inverse temperature changes at once, at most."""
_ROWS = 128
"""Rows handled at a time, few enough for the processor's cache."""


@dataclass(eq=False)
class TemperatureScaledMSP(Detector):
    """Maximum softmax probability at a temperature: ``-max softmax(z / T)``.

    T is what minimises the negative log-likelihood of the true classes. It is best learned on
    images that the classifier was not trained on, as it is too sure of its training images:
    ``learn_held_out`` does, on images with labels (``Guard`` runs it on a seeded half of the
    calibration images). Where it has not run, T is the one ``learn`` finds on the training images;
    it is never silently 1. T changes the ranking of images, never their predicted class.

    Args:
        temperature: T, given; None learns it as above, in as many passes as Newton's method needs
            (about eight).

    If every image is classified rightly, as training images often are, the likelihood has no
    optimum: it only grows as T falls. Then, as in Platt scaling, each image counts as N / (N + C)
    of its class and 1 / (N + C) of every class. T is sought in 0.001 to 1000, and is the nearer end
    where the optimum lies outside.

    Source: Guo et al., ICML 2017, arXiv 1706.04599, and as a detector OpenOOD's program, whose
    search for T stops short of the optimum: this one converges. Platt, 1999, for the exception.
    """

    name: ClassVar[str] = "temperature_scaled_msp"
    paper: ClassVar[Paper | None] = Paper(
        "Guo et al.", 2017, "ICML", "1706.04599", "On Calibration of Modern Neural Networks"
    )
    measures: ClassVar[str] = "one minus calibrated confidence, -max softmax(z/T)"
    temperature: float | None = parameter(
        None, "temperature of the logits; None: where the likelihood is greatest", above=0
    )

    used_temperature: Tensor = learned()
    """T, a scalar: as given or as learned."""

    def learn(self, head: LinearHead) -> Learning:
        if self.temperature is None:
            yield from self._most_likely(head)
        else:
            self.used_temperature = torch.tensor(self.temperature, dtype=torch.float64)

    def learn_held_out(self, head: LinearHead) -> Learning:
        """Learn T on held-out images with labels, in place of the one of the training images."""
        if self.temperature is None:
            yield from self._most_likely(head)

    def _most_likely(self, head: LinearHead) -> Learning:
        """Newton's method for the inverse temperature, in which the likelihood is convex.

        Steps are bounded, and one that leaves the interval known to hold the optimum is replaced by
        its middle.
        """
        confusion = yield ConfusionCounts()
        spread = 0.0
        if bool((confusion.label == confusion.predicted).all()):
            spread = head.num_classes / (float(confusion.count.sum()) + head.num_classes)
        low, high, inverse = 1 / _HOTTEST, 1 / _COLDEST, 1.0
        here = yield Mean(_Slope(inverse, spread))
        end = high if here[0] < 0 else low  # the only one beyond which the optimum may lie
        slope = (yield Mean(_Slope(end, spread)))[0]
        if (slope <= 0) if end == high else (slope >= 0):
            self.used_temperature = here.new_tensor(1 / end)
            return
        for _ in range(_MOST_PASSES):
            slope, curvature = here.tolist()
            low, high = (inverse, high) if slope < 0 else (low, inverse)
            last, wanted = inverse, inverse - slope / max(curvature, _TINY)
            inverse = min(max(wanted, last / _STEP), last * _STEP)
            if not low <= inverse <= high:
                inverse = (low * high) ** 0.5
            if abs(inverse - last) <= 1e-9 * last:
                break
            here = yield Mean(_Slope(inverse, spread))
        self.used_temperature = here.new_tensor(1 / inverse)

    def compute(self, batch: Activations) -> Tensor:
        return -(batch.logits / self.used_temperature).softmax(dim=1).amax(dim=1)


@dataclass(frozen=True)
class _Slope:
    """First two derivatives of the negative log-likelihood by the inverse temperature, [N, 2].

    ``E[z] - t z`` and ``Var[z]``, both under the softmax at that temperature, with t the share of
    every class in the image: its own one, of which ``spread`` is divided among all.
    """

    inverse: float
    spread: float

    def __call__(self, batch: Activations) -> Tensor:
        assert batch.labels is not None, "fitting checks that labels are there"
        parts = zip(torch.split(batch.logits, _ROWS), torch.split(batch.labels, _ROWS), strict=True)
        return torch.cat([self._of(logits, labels) for logits, labels in parts])

    def _of(self, logits: Tensor, labels: Tensor) -> Tensor:
        logits = logits.double()
        logits = logits - logits.amax(dim=1, keepdim=True)
        weights = (logits * self.inverse).exp_()
        total = weights.sum(dim=1)
        mean = weights.mul_(logits).sum(dim=1) / total
        # Rounding is of the size of the mean's square, which a step of Newton's can bear.
        variance = weights.mul_(logits).sum(dim=1) / total - mean.square()
        own = logits.gather(1, labels[:, None])[:, 0]
        target = (1 - self.spread) * own + self.spread * logits.mean(dim=1)
        return torch.stack([mean - target, variance.clamp(min=0)], dim=1)
