"""Fitting: the passes of many detectors over the training activations, run together."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Generator, Sequence
from itertools import islice
from typing import Any, Protocol, TypeVar, runtime_checkable

import torch

from neroli.activations import ActivationSource
from neroli.assumptions import Assumption, Facts, GatherFacts
from neroli.errors import InvalidInput, LabelsRequired, NeroliWarning, NotEnoughImages
from neroli.head import LinearHead
from neroli.statistics import Statistic
from neroli.taps import NOTHING, Requirements

Learning = Generator[Statistic[Any] | tuple[Statistic[Any], ...], Any, None]
"""Every yield asks for one pass over the training activations and receives its results."""


class Learner(Protocol):
    """What can be fitted: every detector."""

    head: LinearHead | None
    shrunk: float | None

    @property
    def requires_to_fit(self) -> Requirements:
        """What fitting needs beyond features and logits."""

    @property
    def assumed(self) -> tuple[Assumption, ...]:
        """What it takes for granted of the images, their features and logits."""

    def forget(self) -> None:
        """Drop everything learned."""

    def learn(self, head: LinearHead) -> Learning:
        """Ask for statistics of the training activations and keep what is learned from them."""

    def learn_held_out(self, head: LinearHead) -> Learning:
        """Ask for statistics of held-out activations and keep what is learned from them."""


LearnerT = TypeVar("LearnerT", bound=Learner)


@runtime_checkable
class GatheringSource(Protocol):
    """Activations that gather statistics themselves: on other processes, say, where they lie."""

    def gathered(self, statistics: Sequence[Statistic[Any]]) -> list[Any]:
        """The results of several statistics over all images, in order.

        Raises:
            NotEnoughImages, InvalidInput: as ``gather``.
        """


def fit(
    detectors: Sequence[LearnerT], activations: ActivationSource, head: LinearHead
) -> list[LearnerT]:
    """Fit detectors in place, all in the same few passes over the training activations.

    What several detectors ask for is gathered once. Memory does not grow with the number of images
    when ``activations`` is a store. If anything fails, every detector is left as it was. What a
    detector assumes of images and features and does not hold is said in a NeroliWarning.

    Args:
        detectors: any number of detectors; fitting again replaces what was learned.
        activations: in-distribution training images: Activations or an ActivationStore.
        head: the classifier's linear head.

    Returns:
        the same detectors, in order.

    Raises:
        LabelsRequired: if a detector learns from true labels and there are none.
        NotEnoughImages: if there is no image, or too few for a detector.
        InvalidInput: if features are NaN or infinite, do not fit the head, or a tap that a detector
            requires is missing.
    """
    if activations.num_features != head.num_features or activations.num_classes != head.num_classes:
        raise InvalidInput(
            f"The activations have {activations.num_features} features and "
            f"{activations.num_classes} classes, the head {head.num_features} and "
            f"{head.num_classes}: they are of different models."
        )
    demanding = [detector for detector in detectors if detector.requires_to_fit != NOTHING]
    for batch in islice(activations.batches(1) if demanding else (), 1):
        for detector in demanding:
            detector.requires_to_fit.check(batch)
    learners = [InProgress.of_training(detector, head) for detector in detectors]
    unsure = any(detector.assumed for detector in detectors)
    facts = _advance_together(learners, activations, check=unsure)
    _take_over(detectors, learners)
    for detector in detectors:
        name, assumed = type(detector).__name__, detector.assumed
        for doubt in facts.doubts(name, assumed, detector.shrunk) if facts else ():
            warnings.warn(doubt, NeroliWarning, stacklevel=2)
    return list(detectors)


def learns_held_out(detector: Learner, head: LinearHead) -> tuple[bool, bool]:
    """Whether a fitted detector learns from held-out images too, and whether from their labels."""
    learner = InProgress.of_held_out(detector, head)
    return bool(learner.requests), learner.needs_labels


def fit_held_out(
    detectors: Sequence[LearnerT], activations: ActivationSource, head: LinearHead
) -> list[LearnerT]:
    """Let fitted detectors learn, in place, what only held-out images can teach.

    Args:
        detectors: fitted detectors.
        activations: in-distribution images that neither the classifier nor the detectors were
            trained on.
        head: the classifier's linear head.

    Returns:
        the same detectors, in order.

    Raises:
        LabelsRequired, NotEnoughImages, InvalidInput: as ``fit``.
    """
    learners = [InProgress.of_held_out(detector, head) for detector in detectors]
    _advance_together(learners, activations)
    _take_over(detectors, learners)
    return list(detectors)


def _advance_together(
    learners: Sequence[InProgress], activations: ActivationSource, *, check: bool = False
) -> Facts | None:
    """Run the passes of several learners together; give the facts of the activations if asked."""
    steps = in_step(learners)
    facts = None
    requests = next(steps, ())
    while requests or check:
        if not activations.has_labels and any(s.needs_labels for s in requests):
            names = [type(learner.fitted).__name__ for learner in learners if learner.needs_labels]
            raise LabelsRequired(
                f"{names[0]} learns from the true class of every image and these have no labels: "
                'give them, or create the detector with labels="predicted" if it has that.'
            )
        results = gather([*requests, GatherFacts()] if check else requests, activations)
        if check:
            facts, check = results.pop(), False
        try:
            requests = steps.send(results) if requests else ()
        except StopIteration:
            requests = ()
    return facts


def in_step(
    learners: Sequence[InProgress],
) -> Generator[tuple[Statistic[Any], ...], list[Any], None]:
    """Advance several learners together: each yield asks once for everything they wait for."""
    while waiting := [learner for learner in learners if learner.requests]:
        distinct: list[Statistic[Any]] = []
        for statistic in (s for learner in waiting for s in learner.requests):
            if statistic not in distinct:
                distinct.append(statistic)
        results = yield tuple(distinct)
        for learner in waiting:
            learner.advance([results[distinct.index(s)] for s in learner.requests])


def _take_over(detectors: Sequence[Learner], learners: Sequence[InProgress]) -> None:
    """Replace what detectors know by what their copies have learned."""
    for detector, learner in zip(detectors, learners, strict=True):
        detector.__dict__.clear()
        detector.__dict__.update(learner.fitted.__dict__)


def gather(statistics: Sequence[Statistic[Any]], activations: ActivationSource) -> list[Any]:
    """The results of several statistics, from one pass over the activations.

    A ``GatheringSource`` is asked for them; any other is read.

    Raises:
        NotEnoughImages: if there is no image, or too few for one of the statistics.
        InvalidInput: if features or logits are NaN or infinite.
    """
    if isinstance(activations, GatheringSource):
        return activations.gathered(statistics)
    if len(activations) == 0:
        raise NotEnoughImages("There are no images to learn from: give at least one readable one.")
    take_in(statistics, activations)
    return [statistic.finalize() for statistic in statistics]


def take_in(statistics: Sequence[Statistic[Any]], activations: ActivationSource) -> None:
    """Update several statistics with every batch of the activations, which may be none.

    Raises:
        InvalidInput: if features or logits are NaN or infinite.
    """
    with torch.no_grad():
        for batch in activations.batches():
            batch.check_finite()
            for statistic in statistics:
                statistic.update(batch)


class InProgress:
    """A copy of a detector that is learning, and the statistics it waits for."""

    def __init__(self, fitted: Learner, steps: Learning) -> None:
        self.fitted = fitted
        self._steps = steps
        self._single = False
        self.requests: tuple[Statistic[Any], ...] = ()
        self._receive(None)

    @classmethod
    def of_training(cls, detector: Learner, head: LinearHead) -> InProgress:
        """A copy that learns everything anew from training images."""
        fitted = copy.copy(detector)
        fitted.forget()
        fitted.head = head
        return cls(fitted, fitted.learn(head))

    @classmethod
    def of_held_out(cls, detector: Learner, head: LinearHead) -> InProgress:
        """A copy that goes on learning, from held-out images."""
        fitted = copy.copy(detector)
        return cls(fitted, fitted.learn_held_out(head))

    @property
    def needs_labels(self) -> bool:
        """Whether it waits for something that can only be gathered from labelled images."""
        return any(statistic.needs_labels for statistic in self.requests)

    def advance(self, results: list[Any]) -> None:
        """Send in what was asked for; the detector learns from it and may ask again."""
        self._receive(results[0] if self._single else tuple(results))

    def _receive(self, results: Any) -> None:
        try:
            request = self._steps.send(results)
        except StopIteration:
            self.requests = ()
            return
        self._single = isinstance(request, Statistic)
        self.requests = (request,) if isinstance(request, Statistic) else tuple(request)
