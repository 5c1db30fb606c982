"""Temperature scaling: T against a search by SciPy, and on which images it is learned."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp, softmax

from conftest import random_activations
from neroli import Activations, LinearHead
from neroli.detectors import MSP, TemperatureScaledMSP
from neroli.errors import InvalidInput, LabelsRequired
from neroli.fitting import Learning, gather
from neroli.statistics import Statistic


def run(learning: Learning, images: Activations) -> int:
    """Carry out what a detector asks for; how many passes it took."""
    passes, results = 0, None
    while True:
        try:
            request = learning.send(results)
        except StopIteration:
            return passes
        several = not isinstance(request, Statistic)
        gathered = gather(request if several else [request], images)  # type: ignore[arg-type]
        results = tuple(gathered) if several else gathered[0]
        passes += 1


def best_temperature(images: Activations, prior: float = 0.0) -> float:
    """By golden section; ``prior`` images of every class are counted for each image's label."""
    z, count = images.logits.numpy(), len(images)
    assert images.labels is not None
    share = np.eye(z.shape[1])[images.labels.numpy()] * count + prior
    share /= share.sum(axis=1, keepdims=True)

    def loss(log_temperature: float) -> float:
        scaled = z / np.exp(log_temperature)
        return float((logsumexp(scaled, axis=1) - (share * scaled).sum(1)).mean())

    found = minimize_scalar(loss, bounds=(-7, 7), method="bounded", options={"xatol": 1e-9})
    return float(np.exp(found.x))


@pytest.mark.parametrize("factor", [0.02, 1.0, 30.0])
def test_learns_the_likeliest_temperature_whatever_the_scale_of_the_logits(
    training: Activations, head: LinearHead, factor: float
) -> None:
    scaled = LinearHead(head.weight * factor, head.bias * factor)
    images = Activations.from_features(training.features, scaled, training.labels)
    detector = TemperatureScaledMSP().fit(images, scaled)
    assert detector.used_temperature.item() == pytest.approx(best_temperature(images), rel=1e-6)


def test_held_out_images_replace_what_training_images_taught(
    training: Activations, head: LinearHead
) -> None:
    held_out = random_activations(head, 300, seed=3, shift=0.5)
    detector = TemperatureScaledMSP().fit(training, head)
    on_training = detector.used_temperature.item()
    assert run(detector.learn_held_out(head), held_out) < 15
    assert detector.used_temperature.item() == pytest.approx(best_temperature(held_out), rel=1e-6)
    assert abs(detector.used_temperature.item() - on_training) > 1e-2


def test_images_that_are_all_right_have_a_temperature_too(
    training: Activations, head: LinearHead
) -> None:
    """Their likelihood has no optimum; with one image of every class added to each, it has."""
    right = Activations(training.features, training.logits, training.predictions)
    detector = TemperatureScaledMSP().fit(right, head)
    expected = best_temperature(right, prior=1.0)
    assert detector.used_temperature.item() == pytest.approx(expected, rel=1e-6)


def test_a_given_temperature_is_kept(training: Activations, head: LinearHead) -> None:
    unlabelled = Activations(training.features, training.logits)
    detector = TemperatureScaledMSP(2.5).fit(unlabelled, head)
    assert run(detector.learn_held_out(head), training) == 0
    expected = -softmax(training.logits.numpy() / 2.5, axis=1).max(axis=1)
    np.testing.assert_allclose(detector.score(training), expected, rtol=1e-13)
    assert run(MSP().learn_held_out(head), training) == 0


def test_always_wrong_or_always_equal_logits_give_a_bounded_temperature(head: LinearHead) -> None:
    features = torch.rand(40, 24, dtype=torch.float64)
    logits = head(features)
    for labels in (logits.argmin(dim=1), logits.argmax(dim=1)):
        for z in (logits, torch.zeros_like(logits)):
            images = Activations(features, z, labels)
            detector = TemperatureScaledMSP().fit(images, head)
            assert 1e-3 <= detector.used_temperature.item() <= 1e3
            assert torch.isfinite(detector.score(images)).all()


def test_labels_and_a_positive_temperature_are_needed(
    training: Activations, head: LinearHead
) -> None:
    with pytest.raises(LabelsRequired):
        TemperatureScaledMSP().fit(Activations(training.features, training.logits), head)
    with pytest.raises(InvalidInput, match="temperature"):
        TemperatureScaledMSP(0.0)
