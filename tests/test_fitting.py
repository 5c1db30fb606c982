"""Many detectors, a few passes."""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from neroli import Activations, LinearHead, fit
from neroli.detectors import MSP, NERO, Detector, Learning, LINe, learned
from neroli.errors import InvalidInput, LabelsRequired, NeroliWarning, NotEnoughImages
from neroli.fitting import take_in
from neroli.statistics import Mean, Statistic


class Counted:
    """A source that counts how often it is read."""

    def __init__(self, activations: Activations) -> None:
        self.activations, self.passes = activations, 0
        self.num_features, self.num_classes = activations.num_features, activations.num_classes
        self.has_labels = activations.has_labels

    def __len__(self) -> int:
        return len(self.activations)

    def batches(self, batch_size: int = 50) -> Iterator[Activations]:
        self.passes += 1
        yield from self.activations.batches(batch_size)


CALLS = 0


def _counted_features(batch: Activations) -> Tensor:
    global CALLS
    CALLS += 1
    return batch.features


@dataclass(eq=False)
class DistanceToMean(Detector):
    """A detector written as the docs say."""

    name: ClassVar[str] = "distance_to_mean"
    mean: Tensor = learned()

    def learn(self, head: LinearHead) -> Learning:
        self.mean = yield Mean(_counted_features)

    def compute(self, batch: Activations) -> Tensor:
        return (batch.features - self.mean).norm(dim=1)


def test_all_detectors_together_take_the_passes_of_the_slowest(
    training: Activations, head: LinearHead
) -> None:
    source = Counted(training)
    fit([NERO(), NERO(bias_term=False), LINe(), LINe(clip=1.0), MSP()], source, head)
    assert source.passes == 2
    source.passes = 0
    fit([MSP()], source, head)
    assert source.passes == 0


def test_a_source_may_gather_by_itself(
    training: Activations, head: LinearHead, new: Activations
) -> None:
    class Halves(Counted):
        """Gathers on each half of the images alone, and merges what that gave."""

        def gathered(self, statistics: Sequence[Statistic[Any]]) -> list[Any]:
            others = copy.deepcopy(statistics)
            take_in(statistics, self.activations[:150])
            take_in(others, self.activations[150:])
            for statistic, other in zip(statistics, others, strict=True):
                statistic.merge(other)
            return [statistic.finalize() for statistic in statistics]

    source = Halves(training)
    for detector, alone in zip(fit([NERO(), LINe()], source, head), [NERO(), LINe()], strict=True):
        expected = alone.fit(training, head).score(new)
        torch.testing.assert_close(detector.score(new), expected, rtol=1e-9, atol=1e-9)
    assert source.passes == 0


def test_equal_requests_are_gathered_once(training: Activations, head: LinearHead) -> None:
    global CALLS
    CALLS = 0
    fit([DistanceToMean() for _ in range(5)], training, head)
    assert CALLS == 1


def test_together_equals_alone(training: Activations, head: LinearHead, new: Activations) -> None:
    together = fit([NERO(), LINe(), DistanceToMean()], training, head)
    for detector, alone in zip(together, [NERO(), LINe(), DistanceToMean()], strict=True):
        assert torch.equal(detector.score(new), alone.fit(training, head).score(new))


def test_returns_the_same_objects_in_order(training: Activations, head: LinearHead) -> None:
    detectors = [LINe(), NERO()]
    assert all(a is b for a, b in zip(fit(detectors, training, head), detectors, strict=True))


def test_the_way_the_data_are_split_does_not_matter(
    training: Activations, head: LinearHead, new: Activations
) -> None:
    class Reversed(Counted):
        def batches(self, batch_size: int = 7) -> Iterator[Activations]:
            yield from reversed(list(self.activations.batches(batch_size)))

    for detector in (NERO, LINe):
        one = detector().fit(training, head).score(new)
        other = detector().fit(Reversed(training), head).score(new)
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


def test_a_failed_fit_leaves_detectors_as_they_were(
    training: Activations, head: LinearHead, new: Activations
) -> None:
    nero, line = fit([NERO(), LINe()], training, head)
    before = nero.score(new), line.score(new)
    broken = training.features.clone()
    broken[123, 4] = torch.nan
    with pytest.raises(InvalidInput, match="image 'image-0-123'"):
        fit(
            [nero, line],
            Activations(broken, training.logits, training.labels, training.ids),
            head,
        )
    assert torch.equal(nero.score(new), before[0])
    assert torch.equal(line.score(new), before[1])


def test_labels_are_required_only_by_who_learns_from_them(
    training: Activations, head: LinearHead, new: Activations
) -> None:
    unlabelled = Activations(training.features, training.logits)
    for detector in (NERO, LINe):
        with pytest.raises(LabelsRequired, match=f"{detector.__name__} learns.*predicted"):
            fit([detector()], unlabelled, head)
        by_prediction = detector(labels="predicted").fit(unlabelled, head).score(new)
        as_labels = Activations(training.features, training.logits, training.predictions)
        assert torch.equal(by_prediction, detector().fit(as_labels, head).score(new))
    fit([MSP()], unlabelled, head)


@pytest.mark.parametrize("detector", [NERO(), LINe()])
def test_no_images_are_an_error(
    detector: Detector, training: Activations, head: LinearHead
) -> None:
    with pytest.raises(NotEnoughImages, match="no images"):
        fit([detector], training[:0], head)


@pytest.mark.parametrize("detector", [NERO(), LINe()])
def test_a_class_without_images_is_warned_of(
    detector: Detector, training: Activations, head: LinearHead
) -> None:
    assert training.labels is not None
    without_4 = training.select(training.labels != 4)
    with pytest.warns(NeroliWarning, match=r"1 of 5 classes have fewer than 10 .class 4 has none"):
        fit([detector], without_4, head)
    assert detector.score(training).isfinite().all()


def test_activations_of_another_model_are_refused(training: Activations) -> None:
    with pytest.raises(InvalidInput, match="24 features and 5 classes, the head 24 and 6"):
        fit([NERO()], training, LinearHead(torch.zeros(6, 24)))
