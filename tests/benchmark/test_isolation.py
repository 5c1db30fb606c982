"""Detectors fitted together, of which some fail."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from torch import Tensor

from neroli import Activations, LinearHead
from neroli.benchmark.isolation import Isolated, reason_of
from neroli.detectors import KNN, MSP, NERO, Detector, Energy, LINe, ViM, learned
from neroli.errors import NotEnoughImages
from neroli.fitting import Learning, fit
from neroli.statistics import Mean


@dataclass(eq=False)
class _Failing(Detector):
    """Fails where it is told to."""

    name: ClassVar[str] = "failing"
    measures: ClassVar[str] = "nothing"

    where: str = "learning"
    mean: Tensor = learned()

    def learn(self, head: LinearHead) -> Learning:
        if self.where == "learning":
            raise ZeroDivisionError("no luck")
        self.mean = yield Mean(self._quantity if self.where == "statistic" else "features")
        if self.where == "finishing":
            raise NotEnoughImages("There are too few.")

    def _quantity(self, batch: Activations) -> Tensor:
        raise RuntimeError("in the middle of a pass")

    def compute(self, batch: Activations) -> Tensor:
        raise ValueError("while scoring")


def test_isolated_detectors_learn_what_they_learn_alone(
    training: Activations, new: Activations, head: LinearHead
) -> None:
    detectors = [NERO(low_relevance_neurons=8), LINe(), ViM(dim=12), KNN(k=5), MSP(), Energy()]
    learners = fit([Isolated(detector) for detector in detectors], training, head)
    for detector, learner in zip(detectors, learners, strict=True):
        alone = type(detector)(**detector.hyperparameters()).fit(training, head)
        torch.testing.assert_close(learner.score(new), alone.score(new))
        assert learner.error is None
        assert learner.seconds > 0


@pytest.mark.parametrize(
    ("where", "reason"),
    [
        ("learning", "ZeroDivisionError: no luck"),
        ("statistic", "RuntimeError: in the middle of a pass"),
        ("finishing", "There are too few."),
        ("scoring", "ValueError: while scoring"),
    ],
)
def test_a_detector_that_fails_says_why_and_stops_no_other(
    where: str, reason: str, training: Activations, new: Activations, head: LinearHead
) -> None:
    failing, energy = fit([Isolated(_Failing(where)), Isolated(LINe())], training, head)
    assert failing.score(new) is None
    assert reason_of(failing.error) == reason
    torch.testing.assert_close(energy.score(new), LINe().fit(training, head).score(new))


def test_equal_requests_are_gathered_once_and_counted_for_each(
    training: Activations, head: LinearHead
) -> None:
    seen: list[int] = []

    @dataclass(frozen=True)
    class Counted:
        def __call__(self, batch: Activations) -> Tensor:
            seen.append(len(batch))
            return batch.features

    @dataclass(eq=False)
    class Asking(Energy):
        name: ClassVar[str] = "asking"

        def learn(self, head: LinearHead) -> Learning:
            yield Mean(Counted())

    batches = [training[:200], training[200:]]

    class Source:
        num_features, num_classes, has_labels = training.num_features, training.num_classes, True

        def __len__(self) -> int:
            return len(training)

        def batches(self, batch_size: int = 0) -> list[Activations]:
            return batches

    learners = fit([Isolated(Asking()), Isolated(Asking())], Source(), head)
    assert seen == [200, 200]
    assert all(learner.seconds > 0 for learner in learners)


def test_the_detector_that_is_given_is_left_as_it_is(
    training: Activations, head: LinearHead
) -> None:
    given = NERO(low_relevance_neurons=8)
    fit([Isolated(given)], training, head)
    assert given.head is None
